"""TensorFlow Compression's range coder, for coder_speed.py, which starts this under another Python and takes turns.

    python tfc_coder.py work.npz

``work.npz`` holds latents int32 [N, S], index int32 [S] of the table of each latent, frequencies int32 [T, V] and their
sum, and the least value of every table. Each line on stdin asks for one round; each is answered by one line of
JSON: seconds to encode (int32 array to bytes objects), to decode (bytes objects to int32 array), and bytes. The ops are
those that the library's entropy models run: ``entropy_encode_channel`` where the index is 0, 1, ..., T - 1 again and
again, as in ``ContinuousBatchedEntropyModel``. The first line says how many cores TensorFlow uses.
"""

import json
import os
import sys
import time

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np
import tensorflow as tf
from tensorflow_compression.python.ops import gen_ops

work = np.load(sys.argv[1])
latents, index, frequencies, least = work["latents"], work["index"], work["frequencies"], int(work["least"])
messages, symbols = latents.shape
tables = len(frequencies)
assert symbols % tables == 0
assert np.array_equal(index, np.arange(symbols) % tables)
total = int(frequencies[0].sum())
precision = total.bit_length() - 1
assert np.all(frequencies.sum(axis=1) == 1 << precision)
# A row of the op's tables: the precision, then the cumulative frequencies; a positive precision has no escape code.
starts = np.concatenate([np.zeros((tables, 1), np.int64), np.cumsum(frequencies, axis=1)], axis=1)
cdf = tf.constant(np.concatenate([np.full((tables, 1), precision), starts], axis=1), tf.int32)


@tf.function(input_signature=[tf.TensorSpec(latents.shape, tf.int32)])
def encode(values):
    handle = gen_ops.create_range_encoder([messages], cdf)
    values = tf.reshape(values - least, [messages, symbols // tables, tables])
    return gen_ops.entropy_encode_finalize(gen_ops.entropy_encode_channel(handle, values))


@tf.function(input_signature=[tf.TensorSpec([messages], tf.string)])
def decode(strings):
    handle = gen_ops.create_range_decoder(strings, cdf)
    handle, values = gen_ops.entropy_decode_channel(handle, [symbols // tables, tables], tf.int32)
    with tf.control_dependencies([tf.debugging.assert_equal(gen_ops.entropy_decode_finalize(handle), True)]):
        return tf.reshape(values + least, [messages, symbols])


def answer(**values):
    print(json.dumps(values), flush=True)


answer(cores=len(os.sched_getaffinity(0)), tensorflow=tf.__version__)
for _ in sys.stdin:
    begin = time.perf_counter()
    payloads = encode(latents).numpy().tolist()
    middle = time.perf_counter()
    restored = decode(payloads).numpy()
    end = time.perf_counter()
    assert np.array_equal(restored, latents)
    answer(encode=middle - begin, decode=end - middle, bytes=sum(map(len, payloads)))
