"""Training of TensorFlow Compression's tutorial codec, for training_speed.py, which starts this under another Python.

    python tfc_training.py images.npy [--latent-dim N] [--rate-distortion-lambda L]

``images.npy`` holds uint8 [N, 28, 28]. Networks, prior, loss, optimizer and data pipeline are those of TensorFlow's
tutorial "Learned data compression"; the distortion is the mean squared error on [0, 1]. Each line on stdin asks for an
epoch, and is answered by its seconds as JSON.
"""

import argparse
import json
import os
import sys
import time

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np
import tensorflow as tf
import tensorflow_compression as tfc

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("images")
parser.add_argument("--latent-dim", type=int, default=96)
parser.add_argument("--rate-distortion-lambda", type=float, default=15_000)
args = parser.parse_args()
images = np.load(args.images).astype("float32")[..., None] / 255
layers = tf.keras.layers


def conv(filters):
    return layers.Conv2D(filters, 5, 2, "same", activation="leaky_relu")


def deconv(filters):
    return layers.Conv2DTranspose(filters, 5, 2, "same", activation="leaky_relu")


class Codec(tf.keras.Model):
    def __init__(self):
        super().__init__()
        self.analysis = tf.keras.Sequential(
            [conv(20), conv(50), layers.Flatten(), layers.Dense(500, "leaky_relu"), layers.Dense(args.latent_dim)]
        )
        self.synthesis = tf.keras.Sequential(
            [
                layers.Dense(500, "leaky_relu"),
                layers.Dense(2450, "leaky_relu"),
                layers.Reshape((7, 7, 50)),
                deconv(20),
                deconv(1),
            ]
        )
        self.log_scale = tf.Variable(tf.zeros((args.latent_dim,)))

    def call(self, x, training):
        prior = tfc.NoisyLogistic(loc=0.0, scale=tf.exp(self.log_scale))
        entropy = tfc.ContinuousBatchedEntropyModel(prior, coding_rank=1, compression=False)
        latent, bits = entropy(self.analysis(x), training=training)
        error = tf.reduce_mean(tf.square(x - self.synthesis(latent)))
        return {"rate": tf.reduce_mean(bits), "distortion": error}


def passthrough(_, value):
    return value


tf.keras.utils.set_random_seed(0)
model = Codec()
model.compile(
    tf.keras.optimizers.Adam(1e-3),
    loss={"rate": passthrough, "distortion": passthrough},
    loss_weights={"rate": 1.0, "distortion": args.rate_distortion_lambda},
)
dataset = tf.data.Dataset.from_tensor_slices(images).shuffle(len(images))
dataset = dataset.map(lambda x: (x, {"rate": 0.0, "distortion": 0.0})).batch(128).prefetch(8)
options = tf.data.Options()
options.autotune.enabled = False  # else the end of an epoch often waits for the thread that tunes
dataset = dataset.with_options(options)
print(json.dumps({"tensorflow": tf.__version__}), flush=True)
for _ in sys.stdin:
    begin = time.perf_counter()
    model.fit(dataset, epochs=1, verbose=0)
    print(json.dumps({"seconds": time.perf_counter() - begin, "parameters": model.count_params()}), flush=True)
