"""Small functions of tensors that TensorFlow's graph, XLA and LiteRT all run well, and a loop over time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import tensorflow as tf

Tensor = Any  # tf.Tensor; TensorFlow ships no types

# LiteRT plans the memory of a loop's body anew whenever it enters the loop, which costs the more the longer the body;
# and each turn copies all that the loop has gathered. So: few unrolled steps, and two nested loops for a long message.
UNROLLED, UNROLLED_IN_NESTED = 4, 8
FLAT = 32  # the most turns of a loop that is not nested

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def on_cpu(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """The function with all its operators on the CPU, wherever the rest of a graph runs.

    A coder's loops take thousands of steps of a few integers, for which a GPU is slow to be asked; and sums of whole
    numbers in float32, which choose the tables, are exact on a CPU, and not where a GPU rounds them (TF32).
    """

    @wraps(function)
    def pinned(*arguments: Arguments.args, **options: Arguments.kwargs) -> Result:
        with tf.device("CPU:0"):
            return function(*arguments, **options)

    return pinned


Step = Callable[..., tuple[tuple[Tensor, ...], Tensor]]


def mask(condition: Tensor) -> Tensor:
    """int32, 1 where the condition holds."""
    return tf.cast(condition, tf.int32)


def shift_right(x: Tensor, bits: int) -> Tensor:
    """``x >> bits``."""
    return tf.bitwise.right_shift(x, bits)


def cut(x: Tensor, axis: int, begin: int, end: Any) -> Tensor:
    """``x[begin:end]`` along an axis: SLICE, which copies rows; LiteRT's STRIDED_SLICE is ten times slower."""
    begins, sizes = [0] * x.shape.rank, [-1] * x.shape.rank
    begins[axis], sizes[axis] = begin, end - begin
    return tf.slice(x, begins, sizes)


def delayed(x: Tensor) -> Tensor:
    """The last axis moved one place on, a zero in front."""
    return tf.pad(cut(x, -1, 0, _shape(x)[-1] - 1), [[0, 0], [0, 0], [1, 0]])


def ahead(x: Tensor) -> Tensor:
    """The last axis moved one place back, a zero at the end."""
    return tf.pad(cut(x, -1, 1, _shape(x)[-1]), [[0, 0], [0, 0], [0, 1]])


def scatter(places: Tensor, values: Tensor, size: Tensor) -> Tensor:
    """int32 [size], the sums of the values that fall on each place."""
    return tf.scatter_nd(tf.reshape(places, [-1, 1]), tf.reshape(values, [-1]), tf.reshape(size, [1]))


def _shape(x: Tensor) -> list[Any]:
    """The dimensions, each as a number where it is known."""
    return [tf.shape(x)[i] if n is None else n for i, n in enumerate(x.shape)]


def of_rows(values: Any, rows: Tensor | None, axis: int = 0) -> Any:
    """The values of ``rows``, int32 [N], along an axis; all of them where ``rows`` is None."""
    return values if rows is None else tf.gather(values, rows, axis=axis)


def nesting(steps: int) -> tuple[int, ...]:
    """Turns of the outer loop, of the inner one, and unrolled steps, whose product is ``steps`` or a little more."""
    if steps <= UNROLLED * FLAT:
        unrolled = min(steps, UNROLLED)
        return 1, -(-steps // unrolled), unrolled
    turns = -(-steps // UNROLLED_IN_NESTED)
    inner = math.isqrt(turns - 1) + 1
    return -(-turns // inner), inner, UNROLLED_IN_NESTED


def scan(
    step: Step, state: tuple[Tensor, ...], inputs: Sequence[Tensor], loops: tuple[int, ...]
) -> tuple[tuple[Tensor, ...], Tensor]:
    """Runs ``state, output = step(state, *inputs[t])`` for all steps in turn.

    Args:
        step: the function.
        state: its first state.
        inputs: each [T, ...], ``T = prod(loops)``.
        loops: turns of each loop, the outermost first; the last are unrolled.

    Returns:
        The last state, and the outputs, [T, ...].
    """
    turns, rest = loops[0], loops[1:]
    if not rest:
        outputs = []
        for row in zip(*(tf.unstack(x, num=turns) for x in inputs), strict=True):
            state, output = step(state, *row)
            outputs.append(output)
        return state, tf.stack(outputs)
    if turns == 1:
        return scan(step, state, inputs, rest)
    size = math.prod(rest)
    inputs = [tf.reshape(x, [turns, size, *_shape(x)[1:]]) for x in inputs]

    def body(turn: Tensor, state: tuple[Tensor, ...], gathered: Tensor) -> tuple[Any, ...]:
        state, output = scan(step, state, [tf.gather(x, turn) for x in inputs], rest)
        # Not a TensorArray: LiteRT gives its parts dynamic shapes, and plans the memory of the body anew in each turn.
        return turn + 1, state, tf.concat([cut(gathered, 0, 1, turns), tf.reshape(output, [1, -1])], axis=0)

    gathered = tf.zeros([turns, size * tf.size(state[0])], tf.int32)
    _, state, gathered = tf.while_loop(lambda turn, *_: turn < turns, body, (0, state, gathered), parallel_iterations=1)
    return state, tf.reshape(gathered, [turns * size, *_shape(state[0])])


def scan_rows(
    step: Step, state: tuple[Tensor, ...], rows: Tensor, run: Any = True
) -> tuple[tuple[Tensor, ...], Tensor]:
    """`scan` over the rows of a tensor, int32 [T, ...], ``T > 0``, of which only the graph knows how many.

    Where ``run``, a bool tensor, is false, no step is taken, and the outputs are zero.
    """
    size, count = tf.size(state[0]), tf.shape(rows)[0]
    turns = tf.where(run, count, 0)

    def loop(body: Any, last: Tensor, start: tuple[Any, ...]) -> Any:
        shapes = tf.TensorShape([]), tuple(x.shape for x in state), tf.TensorShape([None])
        return tf.while_loop(lambda turn, *_: turn < last, body, start, shape_invariants=shapes, parallel_iterations=1)

    def one(turn: Tensor, state: tuple[Tensor, ...], gathered: Tensor) -> tuple[Any, ...]:
        state, output = step(state, tf.gather(rows, turn))
        return turn + 1, state, tf.concat([gathered[size:], tf.reshape(output, [-1])], axis=0)

    def some(turn: Tensor, state: tuple[Tensor, ...], gathered: Tensor) -> tuple[Any, ...]:
        none = tf.zeros(tf.stack([FLAT * size]), tf.int32)
        turn, state, outputs = loop(one, tf.minimum(turn + FLAT, turns), (turn, state, none))
        return turn, state, tf.concat([gathered[FLAT * size :], outputs], axis=0)

    # Each turn copies what its loop has gathered: two loops.
    gathered = tf.zeros(tf.stack([-(-count // FLAT) * FLAT * size]), tf.int32)
    _, state, gathered = loop(some, turns, (0, state, gathered))
    rest = count % FLAT * size  # outputs of the last turns, which lie at the end of their part
    gathered = tf.concat([gathered[: count * size - rest], gathered[tf.size(gathered) - rest :]], axis=0)
    return state, tf.reshape(gathered, tf.concat([[count], tf.shape(state[0])], axis=0))
