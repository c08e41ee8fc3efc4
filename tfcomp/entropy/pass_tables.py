"""The tables of one pass: for each coefficient an expected integer, a table, and a sign.

The residual ``r = sign * (coefficient - mean)`` is coded in a table of ``-K <= r <= K``. Its two outermost symbols mean
"that or beyond"; the distance beyond, the overflow, follows in an overflow table::

                    -K                       0                       K
    --- overflow ---|------------------------|-----------------------|--- overflow ---
                    symbols of the table

    0 <= overflow <= OVERFLOW

``K``, the reach of the table, is 1 or more for every coefficient that is coded.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tfcomp.coding.tables import Int32
from tfcomp.layout import Pass

OVERFLOW = 255
"""Largest distance of a residual beyond its table."""

Intp = NDArray[np.intp]


@dataclass(frozen=True)
class PassTables:
    """The tables of the ``n`` coefficients of a pass, of which ``k`` have symbols.

    Attributes:
        which: the pass.
        expected: int32 [n], the expected integer of each coefficient; where it has no symbol, the coefficient itself.
        coded: intp [k], the coefficients that have symbols.
        mean: int32 [k], the expected integer of each coefficient that has a symbol.
        table: int32 [k], the table of each residual.
        reach: int32 [k], ``K`` of each table.
        sign: int32 [k], 1 or -1.
        overflow_table: int32 [T], the overflow table of each of the model's tables.
    """

    which: Pass
    expected: Int32
    coded: Intp
    mean: Int32
    table: Int32
    reach: Int32
    sign: Int32
    overflow_table: Int32

    def take(self, some: Intp) -> PassTables:
        """The tables of the coded coefficients at these places, intp [m]."""
        of_some = {name: getattr(self, name).take(some) for name in ("coded", "mean", "table", "reach", "sign")}
        return replace(self, **of_some)

    def clip(self, coefficients: Int32) -> Int32:
        """The nearest coefficients that can be coded, int32 [k]."""
        most = self.reach + OVERFLOW
        return np.minimum(np.maximum(coefficients, self.mean - most), self.mean + most)

    def ends(self, symbols: Int32) -> Intp:
        """Places of the symbols that say "that or beyond", intp [e]."""
        return np.flatnonzero(np.abs(symbols) == self.reach)

    def overflow_tables(self, ends: Intp) -> Int32:
        """The tables of the overflow at these places, int32 [e]."""
        return self.overflow_table.take(self.table.take(ends))

    def split(self, coefficients: Int32) -> tuple[Int32, Intp, Int32]:
        """Symbols, int32 [k], the places that have overflow, intp [e], and the overflow, int32 [e].

        Args:
            coefficients: int32 [k], as `clip` leaves them.
        """
        residual = (coefficients - self.mean) * self.sign
        symbols = np.minimum(np.maximum(residual, -self.reach), self.reach)
        ends = self.ends(symbols)
        return symbols, ends, np.abs(residual.take(ends)) - self.reach.take(ends)

    def join(self, symbols: Int32, ends: Intp, overflow: Int32) -> Int32:
        """The coefficients, int32 [k]; the inverse of `split`."""
        residual = symbols * self.sign
        residual[ends] += np.sign(residual.take(ends)) * overflow
        return self.mean + residual

    def values(self, coefficients: Int32) -> tuple[tuple[Int32, Int32], tuple[Int32, Int32]]:
        """Symbols, int32 [k], then overflow, int32 [e], each with its tables, as lanes hold them."""
        symbols, ends, overflow = self.split(coefficients)
        return (symbols, self.table), (overflow, self.overflow_tables(ends))
