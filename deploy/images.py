"""Images as numbers and as files' contents: RGB, channels first, rows from top to bottom.

A file carries a comment that says which seed and which model it shows, so that a later run knows what it need not make
again, and a person where an image came from.
"""

from __future__ import annotations

import math
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np

from deploy.untrusted import UnsafeFileError, read_file

GAP = 2  # white pixels between the images of a grid
_PNG_START, _PNG_END = b"\x89PNG\r\n\x1a\n", b"\x00\x00\x00\x00IEND\xaeB`\x82"
_JPG_START, _JPG_END = b"\xff\xd8\xff\xe0", b"\xff\xd9"
_MAX_BYTES = 1 << 28  # of a file that can be an image of ours
# The start of a file whose comment says which model it shows: a regular expression, see own_files.py.
OF_A_MODEL = rb"(tEXtComment\0|\xff\xfe..)(seed [0-9]+, )?model "


def to_uint8(images: np.ndarray) -> np.ndarray:
    """uint8 images of the same shape from floats in [-1, 1]: -1 -> 0, 1 -> 255, rounded to the nearest level.

    Raises ValueError for whole numbers, which may be levels already.
    """
    images = np.asarray(images)
    if images.dtype.kind != "f":
        raise ValueError(f"images must be floats in [-1, 1], received {images.dtype}")
    return np.rint((np.clip(images, -1.0, 1.0) + 1.0) * 127.5).astype(np.uint8)


def grid(images_uint8: np.ndarray, columns: int | None = None, gap: int = GAP) -> np.ndarray:
    """One image of N: uint8 [3, H', W'] from uint8 [N, 3, H, W], row by row, white gaps of `gap` pixels.

    Without `columns` the grid is as square as N allows (100 images: 10 x 10). One-channel images become grey RGB.
    """
    n, channels, height, width = images_uint8.shape
    if channels == 1:
        images_uint8 = np.repeat(images_uint8, 3, axis=1)
    columns = min(n, columns or math.ceil(math.sqrt(n)))
    rows = math.ceil(n / columns)
    canvas = np.full((3, rows * (height + gap) + gap, columns * (width + gap) + gap), 255, np.uint8)
    for i, image in enumerate(images_uint8):
        top, left = gap + i // columns * (height + gap), gap + i % columns * (width + gap)
        canvas[:, top : top + height, left : left + width] = image
    return canvas


def to_bgr(image_uint8: np.ndarray) -> np.ndarray:
    """What OpenCV takes: uint8 [H, W, BGR] from uint8 [3, H, W] RGB."""
    return np.ascontiguousarray(image_uint8[::-1].transpose(1, 2, 0))


def encode(image_uint8: np.ndarray, suffix: str, comment: str = "") -> bytes:
    """The content of a .png, .jpg or .webp file of an RGB image, uint8 [3, H, W].

    `comment` (ASCII), if any, goes into a .png or .jpg. A .webp is lossless and has none.
    """
    if suffix == ".webp":  # above 100 is OpenCV's word for lossless
        done, encoded = cv2.imencode(suffix, to_bgr(image_uint8), [cv2.IMWRITE_WEBP_QUALITY, 101])
        if not done:
            raise ValueError("this OpenCV cannot encode .webp")
        return encoded.tobytes()
    done, encoded = cv2.imencode(suffix, to_bgr(image_uint8))
    if not done:
        raise ValueError(f"OpenCV could not encode an image of shape {image_uint8.shape} as {suffix}")
    content = encoded.tobytes()
    if not comment:
        return content
    # behind the header, which both formats want first: PNG's is 33 bytes, JPEG's says its own length
    position = 33 if suffix == ".png" else 4 + struct.unpack_from(">H", content, 4)[0]
    return content[:position] + _comment(suffix, comment) + content[position:]


def is_whole(path: Path, comment: str) -> bool:
    """Whether the .png or .jpg file is there with this comment, from its first byte to its last.

    A .png has a checksum of each of its parts, so no damage goes unseen. A .jpg has none: one that was cut short is
    seen, damage in its middle is not.
    """
    is_png = path.suffix == ".png"
    start, end = (_PNG_START, _PNG_END) if is_png else (_JPG_START, _JPG_END)
    try:
        content = read_file(path, _MAX_BYTES, within=path.parent)
    except (FileNotFoundError, UnsafeFileError):  # a link, too, is replaced by an image of its own
        return False
    is_ours = content.startswith(start) and _comment(path.suffix, comment) in content[:512] and content.endswith(end)
    return is_ours and (not is_png or _has_right_checksums(content))


def _has_right_checksums(png: bytes) -> bool:
    """Whether a PNG is chunks of length, kind, content and CRC-32 up to its last byte."""
    position = len(_PNG_START)
    while position + 12 <= len(png):
        (length,) = struct.unpack_from(">I", png, position)
        end = position + 8 + length
        if zlib.crc32(png[position + 4 : end]).to_bytes(4, "big") != png[end : end + 4]:
            return False
        position = end + 4
    return position == len(png)


def _comment(suffix: str, text: str) -> bytes:
    content = text.encode("ascii")
    if suffix == ".png":
        chunk = b"tEXt" + b"Comment\0" + content
        return struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return b"\xff\xfe" + struct.pack(">H", len(content) + 2) + content
