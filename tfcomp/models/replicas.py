"""A model on one of several devices: which part of a batch it has, and noise of its own.

Under `tf.distribute` every replica runs the whole step on its part of a batch. Under JAX a step sees the whole batch,
on as many devices as there are, so that nothing here has any effect there.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


def replica() -> tuple[Any, int]:
    """This replica's number, from 0, and the count of all; 0 and 1 outside of a step, or without a distribution."""
    if keras.backend.backend() != "tensorflow":
        return 0, 1
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    return (0, 1) if context is None else (context.replica_id_in_sync_group, context.num_replicas_in_sync)


def place(count: Any) -> tuple[Any, Any]:
    """The number of a batch's examples before those of this replica, and of all of them.

    A replica may have fewer examples than another, and none of a small batch.

    Args:
        count: number of this replica's examples.

    Returns:
        int32 each; 0 and ``count`` where there is one replica.
    """
    number, replicas = replica()
    if replicas == 1:
        return 0, count
    import tensorflow as tf

    share = tf.one_hot(number, replicas) * tf.cast(count, "float32")  # float: not all collectives take integers
    counts = tf.cast(tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, share), "int32")
    return tf.reduce_sum(counts[:number]), tf.reduce_sum(counts)


def mean_of_batch(values: Any) -> Any:
    """The mean over all examples of a batch, [1, ...] of [N, ...]; no gradient passes where replicas share a batch."""
    _, replicas = replica()
    if replicas == 1:
        return ops.mean(values, axis=0, keepdims=True)
    import tensorflow as tf

    _, examples = place(ops.shape(values)[0])
    share = tf.stop_gradient(tf.reduce_sum(values, axis=0, keepdims=True)) / tf.cast(examples, values.dtype)
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, share)


class Seeds(keras.random.SeedGenerator):
    """Seeds that differ from replica to replica; on one device those of Keras's own generator.

    Examples:
        >>> noise = Seeds(seed=1)
        >>> keras.random.uniform((2,), seed=noise).shape
        TensorShape([2])
    """

    STRIDE = 0x9E3779B1
    """Difference of two replicas' seeds, so that no two have the same first half."""

    def next(self, ordered: bool = True) -> Any:
        seed = super().next(ordered)
        number, replicas = replica()
        if replicas == 1:
            return seed
        aside = ops.cast(number, "int64") * self.STRIDE % 2**31
        return seed + ops.cast(ops.stack([aside, 0 * aside]), seed.dtype)
