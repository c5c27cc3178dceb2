"""Bytes of an image of unknown origin -> RGB pixels, whole or refused. JPEG, PNG, WebP and BMP; the name plays no part.

Pillow decodes. Its file classes are called directly, because `Image.open` warns on the screen about large images and
has a limit of its own; ours is checked here, before a pixel is decoded. jpeg.py and png.py find the damage that Pillow
lets pass.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from PIL import Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from ..errors import DataError
from .jpeg import JpegScans
from .png import has_all_rows

T = TypeVar("T")


@dataclass(frozen=True)
class Limits:
    """What a source may cost; what is beyond is refused by name. tools/prepare.py has a flag for each."""

    max_pixels: int = 100_000_000  # width x height of one image; decoding takes 4 to 16 bytes each
    max_file_bytes: int = 256 * 2**20  # one image file, unpacked
    max_zip_ratio: int = 100  # unpacked to packed size of an archive entry of more than 1 MiB


DEFAULT_LIMITS = Limits()


def decode_image(data: bytes, limits: Limits = DEFAULT_LIMITS) -> np.ndarray:
    """RGB pixels, uint8 [H, W, 3], of a whole JPEG, PNG, WebP or BMP file, turned upright as its EXIF orientation says.

    Grey and palette become RGB, 16 bits become 8, CMYK is converted, transparent pixels are laid over white, an
    animated PNG gives its still image. Raises DataError, which does not know the file's name, for what is empty, of
    another kind, truncated, damaged, an animated WebP, or beyond `limits`: sizes are checked before memory is taken.
    """
    if len(data) > limits.max_file_bytes:
        raise beyond(f"{len(data)} bytes", limits.max_file_bytes, "--max-file-bytes", len(data))
    file_class = _file_class(data)
    if file_class is JpegImageFile:
        return _decode_jpeg(data, limits)
    image = _open(file_class, data, limits)
    if file_class is WebPImageFile and image.is_animated:
        raise DataError("an animated WebP: a still image is expected")
    if file_class is PngImageFile:  # all its checksums: decoding looks at those before the pixels only
        _guarded(file_class, _open(file_class, data, limits).verify)
        _guarded(file_class, image.load)
        if not _has_last_row(image) and not _guarded(file_class, lambda: has_all_rows(data)):
            raise DataError("truncated PNG: the content ends before the image does")
    return _upright(_load(image), image.info.get("exif", b""))


def beyond(what: str, limit: int, flag: str, needed: int) -> DataError:
    """The refusal of `what`, for users of any tool: only tools/prepare.py has the flags that raise a limit."""
    allow = f"tools/prepare.py {flag} {needed}, then train on its .npy"
    return DataError(f"{what}, more than the limit {limit}; to allow it: {allow}")


def _file_class(data: bytes) -> type[ImageFile.ImageFile]:
    if not data:
        raise DataError("empty file")
    for file_class, start, form in (
        (JpegImageFile, b"\xff\xd8", b""),
        (PngImageFile, b"\x89PNG\r\n\x1a\n", b""),
        (WebPImageFile, b"RIFF", b"WEBP"),
        (BmpImageFile, b"BM", b""),
    ):
        if data.startswith(start) and data[8:12].startswith(form):
            return file_class
    raise DataError("not a JPEG, PNG, WebP or BMP image")


def _open(file_class: type[ImageFile.ImageFile], data: bytes, limits: Limits) -> ImageFile.ImageFile:
    """The file with its size known and small enough, nothing decoded."""
    image = _guarded(file_class, lambda: file_class(_Stream(data)))
    _check_size(image.size, limits)
    return image


def _check_size(size: tuple[int, int], limits: Limits) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise DataError(f"damaged: its header says {width} x {height} pixels")
    if max(width, height) > _MAX_SIDE:
        raise DataError(f"too elongated: {width} x {height} pixels, more than {_MAX_SIDE} in a line")
    if width * height > limits.max_pixels:
        raise beyond(f"{width} x {height} pixels", limits.max_pixels, "--max-pixels", width * height)


_MAX_SIDE = 2**24  # Pillow holds lines of 2**26 to 2**27 pixels, by their kind, and has a MemoryError for longer ones


def _load(image: ImageFile.ImageFile) -> np.ndarray:
    return _guarded(type(image), lambda: _to_rgb(image))


def _guarded(file_class: type[ImageFile.ImageFile], work: Callable[[], T]) -> T:
    """work(), with whatever Pillow raises about a damaged file as a DataError: it names no set of exceptions."""
    try:
        return work()
    except (DataError, MemoryError):
        raise
    except Exception as error:
        raise DataError(f"damaged or truncated {file_class.format}: {error or type(error).__name__}") from error


class _Stream(io.BytesIO):
    """One file as Pillow reads it. Ends the walk over a file of nothing but empty parts, which would take minutes."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._reads = 0

    def read(self, size: int | None = -1) -> bytes:
        self._reads += 1
        if self._reads > _MAX_READS:
            raise DataError(f"damaged: going through its parts takes more than {_MAX_READS} reads")
        return super().read(size)


_MAX_READS = 1_000_000  # a second or two


def _decode_jpeg(data: bytes, limits: Limits) -> np.ndarray:
    """As decode_image. libjpeg fills up what is missing and skips what is too much, and says so only by warnings, which
    Pillow does not hand on; so other bytes are put where the content ends, which a whole image does not need."""
    scans = JpegScans(data)
    _check_size(scans.size, limits)
    if scans.is_one_pass and scans.mode:
        image = _decode_one_pass(scans)
        if image:
            return _upright(_to_rgb(image), scans.exif)
    pixels, padded = (_load(_open(JpegImageFile, file, limits)) for file in (data, scans.padded()))
    if not np.array_equal(padded, pixels):
        raise DataError("truncated JPEG: the content ends before the image does")
    return _upright(pixels, scans.exif)


def _decode_one_pass(scans: JpegScans) -> Image.Image | None:
    """The decoded image, or None where its pixels do not tell whether all of them are there.

    Pillow's decoder is called as its JpegImageFile calls it: that class takes as long to read the header as the
    decoder for a face of 178 x 218, and it does not say how much of the file has been used.
    """
    image = Image.new(scans.mode, scans.size)
    decoder = Image._getdecoder(scans.mode, "jpeg", (scans.mode, ""))
    try:
        decoder.setimage(image.im, (0, 0, *scans.size))
        begin, rest = scans.portions()
        used, failed = decoder.decode(begin)
        if used >= 0 and not _has_last_row(image):
            used, failed = decoder.decode(begin[used:] + rest)
        elif not failed:
            raise DataError("damaged JPEG: the image is complete before its content ends")
        if failed:
            raise DataError("damaged JPEG: it cannot be decoded")
    finally:
        decoder.cleanup()
    return image if used < 0 or _has_last_row(image) else None


def _has_last_row(image: Image.Image) -> bool:
    """Whether anything but the zeros of a new image is in the last row, which comes last out of a decoder."""
    return image.im.crop((0, image.height - 1, *image.size)).getbbox() is not None


def _to_rgb(image: Image.Image) -> np.ndarray:
    """The decoded pixels as RGB uint8 [H, W, 3]."""
    image.load()
    if image.mode.startswith("I"):  # grey of 16 bits, which Pillow's own conversion would cut off at 255
        grey = np.asarray(image).astype(np.uint16)
        eight_bits = np.where(grey == image.info.get("transparency"), 255, grey >> 8).astype(np.uint8)
        return np.repeat(eight_bits[..., None], 3, axis=2)
    rgb = image
    if image.has_transparency_data:  # what is behind transparent pixels is arbitrary and must not be learned
        rgba = image.convert("RGBA")
        rgb = Image.new("RGB", image.size, "white")
        rgb.paste(rgba, mask=rgba)
    elif image.mode != "RGB":
        rgb = image.convert("RGB")
    return np.frombuffer(rgb.tobytes("raw", "RGB"), np.uint8).reshape(image.height, image.width, 3)


def _upright(pixels: np.ndarray, exif: bytes) -> np.ndarray:
    """[H, W, 3] turned by its EXIF orientation: 5 to 8 swap the axes, then 2..8 mirror some of them.

    On the array: ImageOps.exif_transpose also rewrites the rest of the EXIF block, and so fails where that is damaged.
    """
    orientation = _orientation(exif)
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def _orientation(exif: bytes) -> int:
    """1 .. 8; 1 (upright) where the EXIF block says nothing usable, as viewers do."""
    if not exif:
        return 1
    block = Image.Exif()
    try:
        block.load(exif)
        orientation = block.get(_ORIENTATION_TAG, 1)
    except Exception:  # a damaged EXIF block says nothing about the pixels; Pillow names no set of exceptions
        return 1
    return orientation if orientation in range(1, 9) else 1


_ORIENTATION_TAG = 0x0112  # EXIF 2.3
