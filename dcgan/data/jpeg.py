"""Whether a JPEG's content is all there. libjpeg fills up with one colour what is missing and skips what is too much.

It counts such damage as warnings, which Pillow does not hand on. So the file's scans (its passes over the image: one in
most files, about ten in progressive ones) are looked at here, without decoding them.
"""

from __future__ import annotations

import re

from ..errors import DataError

_MARKER = re.compile(rb"\xff([^\x00\x01\xff\xd0-\xd8])")  # passes over stuffing, fill bytes and restarts
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SCAN, _END, _APP1 = 0xDA, 0xD9, 0xE1
_MAX_SCANS = 500  # ten are usual; thousands over a large image would keep libjpeg busy for hours
_MAX_SEGMENTS = 100_000
_FILLER = bytes(range(255)) * 16  # begins with 0, so that an 0xff before it stays content


class JpegScans:
    """Where the scans of the JPEG file `data` lie. Raises DataError if the file's end is missing, or scans of it."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._spans: list[tuple[int, int]] = []  # of each scan's content, without its header
        self.size = (0, 0)  # width, height
        self.exif = b""
        self._is_progressive = False
        self._missing_bits: dict[int, list[int]] = {}  # component -> low bits still unknown, of each of 64 coefficients
        self._walk()
        if any(any(bits) for bits in self._missing_bits.values()):
            raise DataError("truncated JPEG: it ends before the last of its passes over the image")

    @property
    def is_one_pass(self) -> bool:
        """Whether rows come out of a decoder as the content goes in; else all of them come at the end."""
        return len(self._spans) == 1 and not self._is_progressive

    @property
    def mode(self) -> str:
        """Pillow's name of the colours; "" for those that are left to its own reading of the file."""
        return {1: "L", 3: "RGB"}.get(len(self._missing_bits), "")

    def padded(self) -> bytes:
        """The file with other bytes after the content of each scan: a decoder that is given a whole one reads none."""
        parts, position = [], 0
        for _, end in self._spans:
            parts += [self._data[position:end], _FILLER]
            position = end
        return b"".join([*parts, self._data[position:]])

    def portions(self) -> tuple[bytes, bytes]:
        """The padded file of one pass, cut in two: with the first a decoder lacks the end of a whole image's last row,
        with the second it has all of it, and some filler to look ahead."""
        start, end = self._spans[-1]
        near = max(start, end - 65536)
        content = near + len(self._data[near:end].rstrip(b"\x00\xff"))  # some cameras pad with those
        cut = max(start, content - 16)
        return self._data[:cut], self._data[cut:end] + _FILLER[:8]

    def _walk(self) -> None:
        position = 2
        for _ in range(_MAX_SEGMENTS):
            found = _MARKER.search(self._data, position)
            if found is None:
                raise DataError("truncated JPEG: the end marker is missing")
            if self._spans and not self._spans[-1][1]:
                self._spans[-1] = (self._spans[-1][0], found.start())
            marker, body = found.group(1)[0], found.end()
            if marker == _END:
                if not self._spans:
                    raise DataError("damaged JPEG: it has no content")
                return
            length = int.from_bytes(self._data[body : body + 2], "big")
            position = body + length
            if marker == _APP1 and self._data.startswith(b"Exif\0\0", body + 2):
                self.exif = self.exif or self._data[body + 2 : position]
            elif marker in _FRAMES:
                self._read_frame(marker, self._data[body + 2 : position])
            elif marker == _SCAN:
                self._read_scan(self._data[body + 2 : position])
                self._spans.append((position, 0))
                if len(self._spans) > _MAX_SCANS:
                    raise DataError(f"damaged JPEG: more than {_MAX_SCANS} passes over the image")
        raise DataError(f"damaged JPEG: more than {_MAX_SEGMENTS} segments")

    def _read_frame(self, marker: int, body: bytes) -> None:
        """ITU T.81, B.2.2: precision, height, width, number of components, then three bytes for each."""
        self.size = (int.from_bytes(body[3:5], "big"), int.from_bytes(body[1:3], "big"))
        self._is_progressive = marker & 3 == 2
        self._missing_bits = {component: [16] * 64 for component in body[6::3]}

    def _read_scan(self, body: bytes) -> None:
        """ITU T.81, B.2.3: number of components, two bytes for each, then first and last coefficient and low bits."""
        count = body[0] if body else 0
        first, last, bits = 0, 63, 0
        if self._is_progressive and len(body) == 4 + 2 * count:
            first, last, bits = body[-3], min(body[-2], 63), body[-1] & 15
        for component in body[1 : 1 + 2 * count : 2]:
            missing = self._missing_bits.get(component)
            if missing:
                missing[first : last + 1] = [bits] * max(0, last + 1 - first)
