"""Every layer of `keras.layers` with what it takes, and pairs of networks around layers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import keras
from keras import layers, ops

SHAPE = (8, 8, 1)

Arrange = Callable[[Any, Any], Any]
"""A function of pixels [N, 8, 8, 1] and a layer that gives the layer what it takes."""


def reshaped(*shape: int, times: int = 1) -> Arrange:
    """One input of a shape, or the same several times in a list."""

    def arrange(x: Any, layer: Any) -> Any:
        x = layers.Reshape(shape)(x)
        return layer(x if times == 1 else [x] * times)

    return arrange


def queried(x: Any, layer: Any) -> Any:
    x = layers.Reshape((8, 8))(x)
    return layer(x, x)


def coloured(x: Any, layer: Any) -> Any:
    return layer(layers.Concatenate()([x, x, x]))


def counted(x: Any, layer: Any) -> Any:
    return layer(ops.cast(layers.Flatten()(x) * 10, "int32"))


def crossed(x: Any, layer: Any) -> Any:
    x = ops.cast(layers.Flatten()(x) * 10, "int32")
    return layer([x[:, :1], x[:, 1:2]])


IMAGE, SEQUENCE, VOLUME, VECTOR, TWO = (
    reshaped(8, 8, 1),
    reshaped(8, 8),
    reshaped(4, 4, 4, 1),
    reshaped(64),
    reshaped(64, times=2),
)
AXES = {1: SEQUENCE, 2: IMAGE, 3: VOLUME}

LAYERS: dict[str, tuple[Arrange, Callable[[], Any]]] = {
    "Activation": (IMAGE, lambda: layers.Activation("gelu")),
    "ActivityRegularization": (IMAGE, lambda: layers.ActivityRegularization(1e-3)),
    "AdditiveAttention": (reshaped(8, 8, times=2), layers.AdditiveAttention),
    "AlphaDropout": (VECTOR, lambda: layers.AlphaDropout(0.2)),
    "Attention": (reshaped(8, 8, times=2), layers.Attention),
    "BatchNormalization": (IMAGE, layers.BatchNormalization),
    "Bidirectional": (SEQUENCE, lambda: layers.Bidirectional(layers.LSTM(3, return_sequences=True))),
    "CategoryEncoding": (counted, lambda: layers.CategoryEncoding(16)),
    "CenterCrop": (IMAGE, lambda: layers.CenterCrop(4, 4)),
    "ConvLSTM1D": (reshaped(4, 8, 2), lambda: layers.ConvLSTM1D(2, 3)),
    "ConvLSTM2D": (VOLUME, lambda: layers.ConvLSTM2D(2, 3)),
    "ConvLSTM3D": (reshaped(4, 4, 2, 2, 1), lambda: layers.ConvLSTM3D(2, 2)),
    "Dense": (VECTOR, lambda: layers.Dense(5)),
    "DepthwiseConv1D": (SEQUENCE, lambda: layers.DepthwiseConv1D(3)),
    "DepthwiseConv2D": (IMAGE, lambda: layers.DepthwiseConv2D(3)),
    "Discretization": (VECTOR, lambda: layers.Discretization([0.2, 0.5])),
    "Dot": (TWO, lambda: layers.Dot(1)),
    "Dropout": (VECTOR, lambda: layers.Dropout(0.2)),
    "EinsumDense": (SEQUENCE, lambda: layers.EinsumDense("abc,cd->abd", (8, 5))),
    "Embedding": (counted, lambda: layers.Embedding(16, 3)),
    "GRU": (SEQUENCE, lambda: layers.GRU(3)),
    "GRUCell": (SEQUENCE, lambda: layers.RNN(layers.GRUCell(3))),
    "GaussianDropout": (VECTOR, lambda: layers.GaussianDropout(0.2)),
    "GaussianNoise": (VECTOR, lambda: layers.GaussianNoise(0.2)),
    "GroupNormalization": (reshaped(4, 4, 4), lambda: layers.GroupNormalization(2)),
    "GroupQueryAttention": (queried, lambda: layers.GroupQueryAttention(4, 4, 2)),
    "HashedCrossing": (crossed, lambda: layers.HashedCrossing(8, output_mode="one_hot")),
    "Hashing": (counted, lambda: layers.Hashing(8)),
    "IntegerLookup": (counted, lambda: layers.IntegerLookup(vocabulary=[1, 2, 3])),
    "LSTM": (SEQUENCE, lambda: layers.LSTM(3)),
    "LSTMCell": (SEQUENCE, lambda: layers.RNN([layers.LSTMCell(3), layers.LSTMCell(2)])),
    "Lambda": (IMAGE, lambda: layers.Lambda(lambda x: x * 2)),
    "LayerNormalization": (SEQUENCE, layers.LayerNormalization),
    "Masking": (SEQUENCE, layers.Masking),
    "MelSpectrogram": (
        VECTOR,
        lambda: layers.MelSpectrogram(16, 8, sampling_rate=64, num_mel_bins=4, min_freq=1, max_freq=30),
    ),
    "MultiHeadAttention": (queried, lambda: layers.MultiHeadAttention(2, 4)),
    "Normalization": (IMAGE, lambda: layers.Normalization(mean=0.5, variance=0.1)),
    "Permute": (SEQUENCE, lambda: layers.Permute((2, 1))),
    "Pipeline": (IMAGE, lambda: layers.Pipeline([layers.Rescaling(2.0)])),
    "RMSNormalization": (SEQUENCE, layers.RMSNormalization),
    "RNN": (SEQUENCE, lambda: layers.RNN(layers.GRUCell(3), return_sequences=True)),
    "RandomBrightness": (coloured, lambda: layers.RandomBrightness(0.2)),
    "RandomCrop": (coloured, lambda: layers.RandomCrop(8, 8)),
    "RandomPosterization": (coloured, lambda: layers.RandomPosterization(4)),
    "RandomTranslation": (coloured, lambda: layers.RandomTranslation(0.2, 0.2)),
    "RepeatVector": (VECTOR, lambda: layers.RepeatVector(2)),
    "Rescaling": (IMAGE, lambda: layers.Rescaling(2.0)),
    "Reshape": (IMAGE, lambda: layers.Reshape((4, 16))),
    "Resizing": (IMAGE, lambda: layers.Resizing(4, 4)),
    "ReversibleEmbedding": (counted, lambda: layers.ReversibleEmbedding(16, 3)),
    "STFTSpectrogram": (reshaped(64, 1), lambda: layers.STFTSpectrogram(frame_length=16, frame_step=8, fft_length=16)),
    "SeparableConv1D": (SEQUENCE, lambda: layers.SeparableConv1D(3, 3)),
    "SeparableConv2D": (IMAGE, lambda: layers.SeparableConv2D(3, 3)),
    "SimpleRNN": (SEQUENCE, lambda: layers.SimpleRNN(3)),
    "SimpleRNNCell": (SEQUENCE, lambda: layers.RNN(layers.SimpleRNNCell(3))),
    "Softmax": (SEQUENCE, layers.Softmax),
    "SpectralNormalization": (IMAGE, lambda: layers.SpectralNormalization(layers.Conv2D(2, 3))),
    "StackedRNNCells": (SEQUENCE, lambda: layers.RNN(layers.StackedRNNCells([layers.GRUCell(3), layers.LSTMCell(2)]))),
    "TimeDistributed": (
        SEQUENCE,
        lambda: layers.TimeDistributed(keras.Sequential([layers.Dense(3), layers.BatchNormalization()])),
    ),
    "UnitNormalization": (SEQUENCE, layers.UnitNormalization),
    "UpSampling2D": (IMAGE, lambda: layers.UpSampling2D(2, interpolation="bilinear")),
    "Wrapper": (IMAGE, lambda: layers.SpectralNormalization(layers.Conv2D(2, 3))),
}
"""Layers by name: how each is fed, and one of it."""


def _more() -> None:
    def add(arrange: Arrange, *names: str, **options: Any) -> None:
        for name in names:
            LAYERS.setdefault(name, (arrange, partial(getattr(layers, name), *options.values())))

    add(IMAGE, "ELU", "Flatten", "Identity", "LeakyReLU", "PReLU", "ReLU")
    add(TWO, "Add", "Average", "Concatenate", "Maximum", "Minimum", "Multiply", "Subtract")
    random = ("ColorDegeneration", "Contrast", "Hue", "Rotation", "Saturation", "Sharpness", "Shear", "Zoom")
    add(coloured, *(f"Random{name}" for name in random), factor=0.2)
    random = (
        "ColorJitter",
        "ElasticTransform",
        "Erasing",
        "Flip",
        "GaussianBlur",
        "Grayscale",
        "Invert",
        "Perspective",
    )
    add(coloured, *(f"Random{name}" for name in random), "AugMix", "AutoContrast", "CutMix", "Equalization", "MixUp")
    add(coloured, "ContrastLimitedAdaptiveHistogramEqualization", "RandAugment", "Solarization")
    for axes, arrange in AXES.items():
        add(
            arrange, *(f"{name}Pooling{axes}D" for name in ("AdaptiveAverage", "AdaptiveMax", "Average", "Max")), size=2
        )
        add(arrange, *(f"Global{name}Pooling{axes}D" for name in ("Average", "Max")))
        add(arrange, f"Conv{axes}D", f"Conv{axes}DTranspose", filters=2, size=3)
        add(arrange, f"Cropping{axes}D", f"UpSampling{axes}D", f"ZeroPadding{axes}D")
        add(arrange, f"SpatialDropout{axes}D", rate=0.2)


_more()

NO_LAYERS_OF_A_NETWORK = {
    "FlaxLayer": "another backend's",
    "InputLayer": "part of every network",
    "JaxLayer": "another backend's",
    "Layer": "has no call",
    "MaxNumBoundingBoxes": "boxes, not pixels",
    "StringLookup": "text, not pixels",
    "TFSMLayer": "a file's graph",
    "TextVectorization": "text, not pixels",
    "TorchModuleWrapper": "another backend's",
}

NOT_IN_LITERT = {
    *(f"{name}Pooling3D" for name in ("AdaptiveAverage", "AdaptiveMax", "Average", "Max")),
    "CategoryEncoding",
    "HashedCrossing",
    "Hashing",
    "IntegerLookup",
}
"""Layers that train and freeze, and whose operators LiteRT does not have; an export names the operator."""


def encoder_around(inner: Callable[[Any], Any], latent: int = 4) -> keras.Model:
    """uint8 [N, 8, 8, 1] -> float32 [N, latent], with layers of one's own after the scaling."""
    image = keras.Input(SHAPE, dtype="uint8")
    x = layers.Flatten(dtype="float32")(ops.cast(inner(layers.Rescaling(1 / 255)(image)), "float32"))
    return keras.Model(image, layers.Dense(latent, dtype="float32")(x))


def decoder_around(inner: Callable[[Any], Any], latent: int = 4) -> keras.Model:
    """Its inverse, with layers of one's own before the last."""
    z = keras.Input((latent,))
    x = layers.Reshape(SHAPE)(layers.Dense(64, activation="sigmoid")(z))
    x = layers.Flatten(dtype="float32")(ops.cast(inner(x), "float32"))
    x = layers.Dense(64, activation="sigmoid", dtype="float32")(x)
    return keras.Model(z, layers.Reshape(SHAPE, dtype="float32")(x))


def pair_around(inner: Callable[[Any], Any]) -> tuple[keras.Model, keras.Model]:
    """An encoder and a decoder with the same layers, of weights of their own."""
    return encoder_around(inner), decoder_around(inner)


def of_layer(name: str) -> tuple[keras.Model, keras.Model]:
    """An encoder and a decoder around one of `LAYERS`."""
    arrange, make = LAYERS[name]
    return pair_around(lambda x: arrange(x, make()))
