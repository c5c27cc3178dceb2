"""Bytes of a stranger's image -> RGB pixels, whole or refused. JPEG, PNG, WebP and BMP; the name plays no part.

OpenCV decodes; this file looks at the container first, because OpenCV alone takes half a JPEG for an image (4.x),
allocates whatever size a header names, and prints about damage on the screen instead of reporting it.
"""

from __future__ import annotations

import contextlib
import os
import re
import struct
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TextIO

import cv2
import numpy as np

from ..errors import DataError


@dataclass(frozen=True)
class Limits:
    """What a stranger's source may cost; what is beyond is refused by name. tools/prepare.py has a flag for each."""

    max_pixels: int = 100_000_000  # width x height of one image; decoding takes 6 to 16 bytes each
    max_file_bytes: int = 256 * 2**20  # one image file, unpacked
    max_zip_ratio: int = 100  # unpacked to packed size of an archive entry of more than 1 MiB


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True)
class Header:
    """What a container says before anything is decoded. `pixels` is the part of the file that the decoder needs."""

    width: int
    height: int
    pixels: bytes
    has_alpha: bool = False
    orientation: int = 1  # EXIF: 1 is upright
    is_progressive: bool = False  # JPEG


def decode_image(data: bytes, limits: Limits = DEFAULT_LIMITS) -> np.ndarray:
    """RGB pixels, uint8 [H, W, 3], of a whole JPEG, PNG, WebP or BMP file, turned upright as its EXIF orientation says.

    Grey and palette become RGB, 16 bits become 8, CMYK is converted, an alpha channel (PNG, WebP) is laid over white,
    an animated PNG gives its still image. Raises DataError, which does not know the file's name, for what is empty,
    of another kind, truncated, damaged, an animated WebP, or beyond `limits`: sizes are checked before memory is taken.
    """
    if len(data) > limits.max_file_bytes:
        raise beyond(f"{len(data)} bytes", limits.max_file_bytes, "--max-file-bytes", len(data))
    header = read_header(data)
    if header.width < 1 or header.height < 1:
        raise DataError(f"damaged: its header says {header.width} x {header.height} pixels")
    count = header.width * header.height
    if count > limits.max_pixels:
        raise beyond(f"{header.width} x {header.height} pixels", limits.max_pixels, "--max-pixels", count)
    image = _decode(header.pixels, header.has_alpha)
    if image.shape[:2] != (header.height, header.width):
        raise DataError("damaged: its header and its content disagree about its size")
    if data.startswith(_JPEG) and _lacks_content(header, image):
        raise DataError("truncated JPEG: the content ends before the image does")
    return np.ascontiguousarray(_upright(image, header.orientation))


def beyond(what: str, limit: int, flag: str, needed: int) -> DataError:
    """The refusal of `what`, for users of any tool: only tools/prepare.py has the flags that raise a limit."""
    allow = f"tools/prepare.py {flag} {needed}, then train on its .npy"
    return DataError(f"{what}, more than the limit {limit}; to allow it: {allow}")


def read_header(data: bytes) -> Header:
    """Size, alpha and orientation of an image file. Raises DataError if of another kind, or if its end is missing."""
    if not data:
        raise DataError("empty file")
    for magic, reader in ((_JPEG, _jpeg), (_PNG, _png), (b"RIFF", _webp), (b"BM", _bmp)):
        if data.startswith(magic):
            try:
                return reader(data)
            except (struct.error, IndexError):
                raise DataError("truncated: the file ends too early") from None
    raise DataError("not a JPEG, PNG, WebP or BMP image")


def _decode(data: bytes, has_alpha: bool) -> np.ndarray:
    """RGB uint8 [H, W, 3] by OpenCV, not yet turned: which kinds it would turn depends on its version."""
    flags = cv2.IMREAD_UNCHANGED if has_alpha else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        image = None
    if image is None:
        raise DataError("damaged: OpenCV cannot decode it")
    if image.ndim == 3 and image.shape[2] == 4:
        return _over_white(image)
    if has_alpha:  # a transparent grey, say, that this OpenCV gives without its alpha
        return _decode(data, has_alpha=False)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _over_white(bgra: np.ndarray) -> np.ndarray:
    """RGB uint8 from BGRA of 8 or 16 bits: what is behind transparent pixels is arbitrary and must not be learned."""
    scale = np.float32(1.0 / np.iinfo(bgra.dtype).max)
    rgb = np.empty((*bgra.shape[:2], 3), np.uint8)
    pixels, result = bgra.reshape(-1, 4), rgb.reshape(-1, 3)
    for start in range(0, len(pixels), _BLOCK):  # all at once would take 30 bytes of floats for each pixel
        block = pixels[start : start + _BLOCK]
        alpha = block[:, 3:] * scale
        over = block[:, 2::-1] * (scale * 255) * alpha + (1 - alpha) * 255
        result[start : start + _BLOCK] = np.rint(over)
    return rgb


_BLOCK = 1 << 16  # pixels


def _upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """The [H, W, 3] view turned by its EXIF orientation: 5 to 8 swap the axes, then 2..8 mirror some of them."""
    if orientation >= 5:
        image = image.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return image


# --- containers: each reader walks to the end of its file, so that a truncated one is found whatever the decoder says

_JPEG, _PNG = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"
_JPEG_MARKER = re.compile(rb"\xff([^\x00\x01\xff\xd0-\xd8])")  # passes over stuffing, fill bytes and restarts
_MAX_BLOCKS = 100_000  # segments or chunks: a file of empty ones would keep this walk busy for minutes


def _jpeg(data: bytes) -> Header:
    width = height = 0
    orientation, is_progressive, position = 1, False, 2
    for _ in range(_MAX_BLOCKS):
        found = _JPEG_MARKER.search(data, position)
        if found is None:
            raise DataError("truncated JPEG: the end marker is missing")
        marker, position = found.group(1)[0], found.end()
        if marker == 0xD9:
            return Header(width, height, data[:position], False, orientation, is_progressive)
        length = struct.unpack_from(">H", data, position)[0]
        if marker in _JPEG_FRAMES and not width:
            height, width = struct.unpack_from(">HH", data, position + 3)
            is_progressive = marker & 3 == 2
        elif marker == 0xE1 and data[position + 2 : position + 8] == b"Exif\0\0":
            orientation = _exif_orientation(data[position + 8 : position + length])
        position += length
    raise DataError(f"damaged JPEG: more than {_MAX_BLOCKS} segments")


_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def _lacks_content(header: Header, image: np.ndarray) -> bool:
    """Whether a JPEG with an end marker has less content than its header promises: a file cut, then closed by a tool.

    libjpeg fills up with one colour where the content ends, and tells nobody but the screen. So where the last corner
    is of one colour (one CelebA image in 20; progressive ones: always), the file is decoded once more with other
    bytes before its end marker: a whole image never reads them.
    """
    corner = image[-1, -8:].tobytes()
    if not header.is_progressive and corner != corner[:3] * (len(corner) // 3):
        return False
    return not np.array_equal(_decode(header.pixels[:-2] + _FILLER + header.pixels[-2:], has_alpha=False), image)


_FILLER = bytes(range(255)) * 16  # begins with 0, so that an 0xff before it stays content


def _png(data: bytes) -> Header:
    """Only the chunks that carry pixels are kept: the others make libpng print, and may unpack to any size."""
    width, height, colour = struct.unpack_from(">II x B", data, 16)
    kept, position, orientation, has_alpha = [_PNG], len(_PNG), 1, colour in (4, 6)
    for _ in range(_MAX_BLOCKS):
        length, kind = struct.unpack_from(">I4s", data, position)
        body, end = position + 8, position + 12 + length
        if end > len(data):
            raise DataError("truncated PNG: its last chunk is incomplete")
        if (kind == b"IHDR") != (position == len(_PNG)):
            raise DataError("damaged PNG: its header is not where it belongs")
        if kind in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
            if struct.unpack_from(">I", data, end - 4)[0] != zlib.crc32(memoryview(data)[position + 4 : end - 4]):
                raise DataError(f"damaged PNG: the checksum of its {kind.decode()} chunk is wrong")
            kept.append(data[position:end])
            has_alpha |= kind == b"tRNS"
        elif kind == b"eXIf":
            orientation = _exif_orientation(data[body : body + length])
        if kind == b"IEND":
            return Header(width, height, b"".join(kept), has_alpha, orientation)
        position = end
    raise DataError(f"damaged PNG: more than {_MAX_BLOCKS} chunks")


def _webp(data: bytes) -> Header:
    size, form = struct.unpack_from("<I4s", data, 4)
    if form != b"WEBP":
        raise DataError("not a JPEG, PNG, WebP or BMP image")
    if 8 + size > len(data):
        raise DataError("truncated WebP: the file is shorter than its header says")
    width = height = 0
    orientation, has_alpha, position = 1, False, 12
    while position + 8 <= 8 + size:
        kind, length = struct.unpack_from("<4sI", data, position)
        body = data[position + 8 : position + 8 + length]
        if kind == b"VP8X":
            if body[0] & 2:
                raise DataError("an animated WebP: a still image is expected")
            has_alpha, width, height = bool(body[0] & 16), _uint24(body, 4) + 1, _uint24(body, 7) + 1
        elif kind == b"VP8 " and not width:
            width, height = (value & 0x3FFF for value in struct.unpack_from("<HH", body, 6))
        elif kind == b"VP8L" and not width:
            packed = struct.unpack_from("<I", body, 1)[0]
            width, height, has_alpha = (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1, bool(packed >> 28 & 1)
        elif kind == b"EXIF":
            orientation = _exif_orientation(body[6:] if body.startswith(b"Exif\0\0") else body)
        position += 8 + length + length % 2
    return Header(width, height, data, has_alpha, orientation)


def _uint24(data: bytes, position: int) -> int:
    return int.from_bytes(data[position : position + 3], "little")


def _bmp(data: bytes) -> Header:
    start, header_bytes = struct.unpack_from("<II", data, 10)
    if header_bytes == 12:
        width, height, bits, compression = (*struct.unpack_from("<HHxxH", data, 18), 0)
    else:
        width, height, bits, compression = struct.unpack_from("<iixxHI", data, 18)
    height = abs(height)  # negative: stored from the top
    row_bytes = (width * bits + 31) // 32 * 4
    if compression in (0, 3) and start + row_bytes * height > len(data):
        raise DataError("truncated BMP: it has fewer pixels than its header says")
    return Header(width, height, data)


def _exif_orientation(tiff: bytes) -> int:
    """1 .. 8 from an EXIF block; 1 (upright) where it says nothing usable, as viewers do."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    try:
        directory = struct.unpack_from(order + "I", tiff, 4)[0]
        for i in range(struct.unpack_from(order + "H", tiff, directory)[0]):
            tag, _, _, value = struct.unpack_from(order + "HHIH", tiff, directory + 2 + 12 * i)
            if tag == 0x0112:
                return value if 1 <= value <= 8 else 1
    except struct.error:  # a damaged EXIF block says nothing about the pixels
        return 1
    return 1


# --- the screen

_cv2_logging = getattr(cv2.utils, "logging", cv2)  # OpenCV 5 moved setLogLevel there
_NOISE = (
    *(b"Corrupt JPEG data", b"Premature end of JPEG", b"Inconsistent progression sequence", b"Invalid SOS parameters"),
    *(b"Warning: unknown JFIF revision", b"Unknown Adobe color transform", b"Application transferred too many"),
    *(b"libpng ", b"imdecode_(", b"\n"),
)


@contextlib.contextmanager
def quiet_decoders() -> Iterator[TextIO]:
    """Keep what the image libraries print about damaged images off the screen while the block runs.

    libjpeg and libpng write to file descriptor 2 whatever OpenCV's log level is, so the descriptor itself is filtered,
    for the whole process: their lines are dropped, all others are passed on. Yields a text stream to the screen that is
    not filtered, for a progress bar.
    """
    log_level = _cv2_logging.setLogLevel(0)
    screen = os.dup(2)
    read_end, write_end = os.pipe()
    os.dup2(write_end, 2)
    os.close(write_end)
    thread = threading.Thread(target=_pass_on, args=(read_end, screen), daemon=True)
    thread.start()
    try:
        with open(screen, "w", closefd=False, errors="replace") as stream:
            yield stream
    finally:
        os.dup2(screen, 2)  # the last writer of the pipe is gone: the thread sees its end
        thread.join(timeout=5)
        os.close(screen)
        _cv2_logging.setLogLevel(log_level)


def _pass_on(read_end: int, screen: int) -> None:
    with open(read_end, "rb") as lines:
        for line in lines:
            if not line.startswith(_NOISE):
                os.write(screen, line)
