"""Image files in the graph, for a SavedModel that is sent a file as it is."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfcomp.items import Item


def decoded_file(content: Any, item: Item) -> Any:
    """The pixels of a JPEG, PNG, GIF, BMP or WebP file, uint8 [H, W, C], as TensorFlow reads them.

    Neither an orientation in EXIF nor a colour profile is applied; of an animation the first picture counts.

    Args:
        content: string [], the file.
        item: of one channel or three.
    """
    pixels = tf.io.decode_image(content, channels=item.channels, expand_animations=False)
    return tf.ensure_shape(pixels, item.shape)
