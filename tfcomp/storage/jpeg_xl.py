"""The fields of a JPEG XL header that its Pillow plugin does not report (ISO/IEC 18181-1, annex D; 18181-2: boxes)."""

from __future__ import annotations

from dataclasses import dataclass

SIGNATURE = b"\xff\x0a"
_BOXES = b"\x00\x00\x00\x0cJXL "
_SIZES = ((9, 1), (13, 1), (18, 1), (30, 1))
_BITS = ((0, 8), (0, 10), (0, 12), (6, 1))
_FLOAT_BITS = ((0, 32), (0, 16), (0, 24), (6, 1))
_PREVIEW_EIGHTHS = ((0, 16), (0, 32), (5, 1), (9, 33))
_PREVIEW = ((6, 1), (8, 65), (10, 321), (12, 1345))
"""Forms of a number, of which two bits choose one: the number of bits that follow, and the number added to them."""


@dataclass(frozen=True)
class Header:
    """The fields.

    Attributes:
        orientation: 1 to 8, as in EXIF; decoders turn the picture upright.
        animated: whether the file is an animation.
        bits: bits of a channel; 0 for an animation.
    """

    orientation: int = 1
    animated: bool = False
    bits: int = 8


def header(data: bytes) -> Header:
    """The header in a file's bytes; raises `ValueError` if there is none."""
    bits = _Bits(_code_stream(data))
    _skip_size(bits)
    if bits.take(1):  # every field has its default
        return Header()
    orientation = 1
    if bits.take(1):
        orientation = bits.take(3) + 1
        if bits.take(1):  # an intrinsic size
            _skip_size(bits)
        if bits.take(1):  # a preview
            form = _PREVIEW_EIGHTHS if bits.take(1) else _PREVIEW
            bits.number(form)
            if bits.take(3) == 0:
                bits.number(form)
        if bits.take(1):
            return Header(orientation, True, 0)
    return Header(orientation, False, bits.number(_FLOAT_BITS if bits.take(1) else _BITS))


def _skip_size(bits: _Bits) -> None:
    small = bits.take(1)
    for axis in range(2):
        bits.take(5) if small else bits.number(_SIZES)
        if axis == 0 and bits.take(3):  # the width follows from a ratio
            return


class _Bits:
    """Bits of a code stream, the lowest of each byte first."""

    def __init__(self, data: bytes) -> None:
        self._value, self._left = int.from_bytes(data, "little"), 8 * len(data)

    def take(self, count: int) -> int:
        self._left -= count
        if self._left < 0:
            raise ValueError("the header of the code stream is cut short")
        taken = self._value & ((1 << count) - 1)
        self._value >>= count
        return taken

    def number(self, form: tuple[tuple[int, int], ...]) -> int:
        count, least = form[self.take(2)]
        return self.take(count) + least


def _code_stream(data: bytes) -> bytes:
    """The first bytes of the code stream after its signature, in boxes or bare."""
    if data.startswith(_BOXES):
        at = 0
        while at + 8 <= len(data):
            size, name = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8]
            start = at + (16 if size == 1 else 8)
            if name in (b"jxlc", b"jxlp"):  # whole, or a part after its number
                data = data[start + (4 if name == b"jxlp" else 0) :]
                break
            size = int.from_bytes(data[at + 8 : at + 16]) if size == 1 else size
            if size < start - at:
                break
            at += size
    if not data.startswith(SIGNATURE):
        raise ValueError("no code stream of JPEG XL")
    return data[len(SIGNATURE) :][:64]
