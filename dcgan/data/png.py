"""Whether a PNG's content is all there. Pillow ends where the compressed content does, and leaves missing rows black.

The checksums of such a file are right: a program that was stopped may have closed it so.
"""

from __future__ import annotations

import struct
import zlib

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type (PNG specification, table 11.1)
_START = 8  # bytes of the signature


def has_all_rows(data: bytes) -> bool:
    """Whether the PNG file `data`, whose chunks and checksums are right, holds as many rows as its header says.

    Of an interlaced one Pillow notices what is missing: True.
    """
    width, height, bits, colour, _, _, is_interlaced = struct.unpack_from(">IIBBBBB", data, _START + 8)
    if is_interlaced:
        return True
    missing = height * (1 + (width * bits * _CHANNELS[colour] + 7) // 8)  # each row begins with the number of a filter
    inflate, position = zlib.decompressobj(), _START
    while missing > 0 and position + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, position)
        part = data[position + 8 : position + 8 + length] if data[position + 4 : position + 8] == b"IDAT" else b""
        while part and missing > 0:
            missing -= len(inflate.decompress(part, 1 << 20))
            part = inflate.unconsumed_tail
        position += 12 + length
    return missing <= 0
