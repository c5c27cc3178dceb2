"""Bytes -> pixels: every kind comes out as upright RGB, and half a file never comes out at all."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from dcgan.data import decode
from dcgan.data.decode import Limits, decode_image
from dcgan.errors import DataError
from tests.dcgan.data.encoded import noise, save

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
CORNERS = (RED, GREEN, BLUE, WHITE)  # of `quarters`: top left, top right, bottom left, bottom right


def quarters(height=48, width=32):
    image = np.empty((height, width, 3), np.uint8)
    half_height, half_width = height // 2, width // 2
    image[:half_height, :half_width], image[:half_height, half_width:] = RED, GREEN
    image[half_height:, :half_width], image[half_height:, half_width:] = BLUE, WHITE
    return image


def png_chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def exif(orientation, order=">"):
    start = {">": b"MM\0*", "<": b"II*\0"}[order]
    return start + struct.pack(order + "IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)


def jpeg_with(segment, jpeg):
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + jpeg[2:]


def corners(image):
    return [tuple(int(v) for v in image[y, x]) for y in (3, -4) for x in (3, -4)]


KINDS = {
    "jpeg": save(noise(), "JPEG"),
    "jpeg progressive": save(noise(), "JPEG", progressive=True),
    "jpeg grey": save(noise(), "JPEG", "L"),
    "jpeg cmyk": save(noise(), "JPEG", "CMYK"),
    "jpeg with thumbnail": jpeg_with(b"Exif\0\0" + exif(1) + save(noise(8, 8), "JPEG"), save(noise(), "JPEG")),
    "png": save(noise(), "PNG"),
    "png palette": save(noise(), "PNG", "P"),
    "png rgba": save(noise(), "PNG", "RGBA"),
    "bmp": save(noise(), "BMP"),
    "bmp palette": save(noise(), "BMP", "P"),
    "webp": save(noise(), "WEBP"),
    "webp lossless": save(noise(), "WEBP", lossless=True),
}


@pytest.mark.parametrize("kind", ["PNG", "BMP", "WEBP"])
def test_lossless_kinds_come_back_exactly_whatever_their_name(kind):
    image = noise()
    assert np.array_equal(decode_image(save(image, kind, lossless=True)), image)


def test_jpeg_keeps_rows_and_colours():
    decoded = decode_image(save(quarters(), "JPEG", quality=95))
    assert decoded.dtype == np.uint8
    assert decoded.shape == (48, 32, 3)
    assert np.allclose(corners(decoded), CORNERS, atol=6)


def test_cmyk_jpeg_becomes_rgb():
    decoded = decode_image(save(quarters(), "JPEG", "CMYK", quality=95))
    assert np.allclose(corners(decoded), CORNERS, atol=8)


@pytest.mark.parametrize("mode", ["L", "LA", "1"])
def test_grey_becomes_three_equal_channels(mode):
    decoded = decode_image(save(quarters(), "PNG", mode))
    assert decoded.shape == (48, 32, 3)
    assert (decoded == decoded[..., :1]).all()
    assert [c[0] for c in corners(decoded)][3] == 255
    assert len({c[0] for c in corners(decoded)}) == (2 if mode == "1" else 4)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits_become_eight(channels):
    levels = np.arange(256, dtype=np.uint16).reshape(16, 16, 1) * 257
    image = np.repeat(levels, channels, axis=2)
    if channels == 4:
        image[..., 3] = 65535
    encoded = cv2.imencode(".png", image)[1].tobytes()
    assert np.array_equal(decode_image(encoded), np.repeat(levels // 257, 3, axis=2))


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_alpha_is_laid_over_white(kind):
    rgba = np.zeros((8, 9, 4), np.uint8)
    rgba[:, 3:] = (200, 100, 0, 255)
    rgba[:, 6:, 3] = 51  # a fifth
    stream = io.BytesIO()
    Image.fromarray(rgba).save(stream, kind, lossless=True)
    decoded = decode_image(stream.getvalue())
    assert tuple(decoded[0, 0]) == WHITE
    assert tuple(decoded[0, 4]) == (200, 100, 0)
    assert tuple(decoded[0, 8]) == (244, 224, 204)  # 0.2 x colour + 0.8 x 255


def test_alpha_over_white_is_rounded_to_the_nearest():
    rgba = np.random.default_rng(1).integers(0, 256, (300, 301, 4), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(rgba).save(stream, "PNG")
    alpha = rgba[..., 3:].astype(np.float64) / 255
    expected = np.rint(rgba[..., :3] * alpha + (1 - alpha) * 255)
    assert np.array_equal(decode_image(stream.getvalue()), expected)


def test_transparent_palette_entry_is_laid_over_white():
    decoded = decode_image(save(quarters(), "PNG", "P", transparency=bytes(256)))
    assert (decoded == 255).all()


UPRIGHT = {  # EXIF 2.3, tag 0x0112: where the stored corners red, green, blue, white belong
    1: (RED, GREEN, BLUE, WHITE),
    2: (GREEN, RED, WHITE, BLUE),
    3: (WHITE, BLUE, GREEN, RED),
    4: (BLUE, WHITE, RED, GREEN),
    5: (RED, BLUE, GREEN, WHITE),
    6: (BLUE, RED, WHITE, GREEN),
    7: (WHITE, GREEN, BLUE, RED),
    8: (GREEN, WHITE, RED, BLUE),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("order", "<>")
def test_jpeg_is_turned_upright_by_its_exif_orientation(orientation, order):
    jpeg = jpeg_with(b"Exif\0\0" + exif(orientation, order), save(quarters(), "JPEG", quality=95))
    decoded = decode_image(jpeg)
    assert decoded.shape == ((32, 48, 3) if orientation >= 5 else (48, 32, 3))
    assert np.allclose(corners(decoded), UPRIGHT[orientation], atol=6)


def test_png_and_webp_are_turned_upright_too():
    png = save(quarters(), "PNG")
    png = png[:33] + png_chunk(b"eXIf", exif(6)) + png[33:]
    webp = save(quarters(), "WEBP", lossless=True, exif=b"Exif\0\0" + exif(6))
    assert corners(decode_image(png)) == corners(decode_image(webp)) == list(UPRIGHT[6])


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("block", [b"", b"MM\0*", exif(9), exif(6)[:12], b"II*\0" + b"\xff" * 20])
def test_unusable_exif_means_upright(block):
    decoded = decode_image(jpeg_with(b"Exif\0\0" + block, save(quarters(), "JPEG", quality=95)))
    assert np.allclose(corners(decoded), CORNERS, atol=6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_cut_anywhere_is_refused(kind):
    whole = KINDS[kind]
    assert decode_image(whole).shape == (61, 47, 3)
    needless = {"bmp": 3, "bmp palette": 1}.get(
        kind, 4 if kind.startswith("png") else 0
    )  # row padding; IEND's checksum
    end = len(whole) - needless
    cuts = {*range(0, end, max(1, len(whole) // 60)), *range(end - 20, end)}
    for cut in sorted(cuts):
        with pytest.raises(DataError):
            decode_image(whole[:cut])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind[:3] in ("jpe", "png")])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_cut_file_filled_up_with_zeros_is_refused(kind, share):  # to BMP and WebP zeros are content like other
    whole = KINDS[kind]
    cut = int(len(whole) * share)
    with pytest.raises(DataError):
        decode_image(whole[:cut] + bytes(len(whole) - cut))


def test_bytes_after_the_end_are_allowed():
    for kind in ("jpeg", "png", "bmp", "webp"):
        assert np.array_equal(decode_image(KINDS[kind] + b"\0after\xff\xd9"), decode_image(KINDS[kind]))


@pytest.mark.parametrize("position", [20, 300, 3000])
def test_a_flipped_bit_in_a_png_is_refused(position):
    damaged = bytearray(KINDS["png"])
    damaged[position] ^= 4
    with pytest.raises(DataError, match="damaged or truncated PNG: .*(CRC|checksum)"):
        decode_image(bytes(damaged))


@pytest.mark.parametrize("rows", [1, 24, 47])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "I;16"])
def test_a_png_that_lacks_rows_is_refused_though_all_its_checksums_are_right(mode, rows):
    pixels = np.full((48, 32), 200 if mode != "1" else 255, np.uint8)
    image = Image.fromarray(pixels).convert(mode) if mode != "I;16" else Image.fromarray(pixels.astype(np.uint16))
    stream = io.BytesIO()
    image.crop((0, 0, 32, rows)).save(stream, "PNG")
    short = stream.getvalue()
    head = struct.pack(">II", 32, 48) + short[24:29]
    with pytest.raises(DataError, match="truncated PNG"):
        decode_image(short[:8] + png_chunk(b"IHDR", head) + short[33:])


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1"])
def test_a_png_that_ends_in_black_rows_is_whole(mode):
    stream = io.BytesIO()
    Image.new(mode, (33, 47)).save(stream, "PNG")
    assert decode_image(stream.getvalue()).shape == (47, 33, 3)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"Dear diary, this is no image", "not a JPEG, PNG, WebP or BMP"),
        (b"GIF89a" + bytes(50), "not a JPEG, PNG, WebP or BMP"),
        (b"RIFF\x10\0\0\0WAVEfmt " + bytes(50), "not a JPEG, PNG, WebP or BMP"),
        (b"\xff\xd8\xff\xd9", "damaged JPEG: it has no content"),
        (b"BM" + bytes(100), "damaged or truncated BMP"),
    ],
)
def test_what_is_no_image_is_refused_with_its_reason(data, reason):
    with pytest.raises(DataError, match=reason):
        decode_image(data)


def test_an_animated_webp_is_refused_and_an_animated_png_gives_its_still_image():
    frames = {"save_all": True, "append_images": [Image.fromarray(noise()[::-1])]}
    with pytest.raises(DataError, match="animated"):
        decode_image(save(noise(), "WEBP", **frames))
    assert np.array_equal(decode_image(save(noise(), "PNG", **frames)), noise())


@pytest.mark.parametrize("kind", ["png", "jpeg", "bmp", "webp", "webp lossless"])
def test_too_many_pixels_are_refused_before_decoding(kind, monkeypatch):
    def never(*_):
        raise AssertionError("decoded")

    monkeypatch.setattr(Image.Image, "load", never)
    with pytest.raises(DataError, match="47 x 61 pixels, more than the limit 2866; .* --max-pixels 2867, then"):
        decode_image(KINDS[kind], Limits(max_pixels=47 * 61 - 1))


def test_a_png_that_claims_an_absurd_size_costs_nothing():
    png = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 2, 0, 0, 0))
    png += png_chunk(b"IDAT", zlib.compress(bytes(100))) + png_chunk(b"IEND", b"")
    with pytest.raises(DataError, match="2147483647 x 2147483647 pixels"):
        decode_image(png)


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xd8" + b"\xff\xe0\x00\x02" * 100_001,
        b"\xff\xd8" + b"\xff" * 1_000_000,
        KINDS["png"][:33] + png_chunk(b"abCd", b"") * 20_000 + KINDS["png"][33:],
    ],
)
def test_a_file_of_nothing_but_empty_parts_is_given_up(data, monkeypatch):
    monkeypatch.setattr(decode, "_MAX_READS", 20_000)
    with pytest.raises(DataError, match="more than (20000 reads|100000 segments)|the end marker is missing"):
        decode_image(data)


def test_a_jpeg_of_hundreds_of_passes_is_refused_before_they_are_made():
    whole = KINDS["jpeg progressive"]
    last_scan = whole[whole.rindex(b"\xff\xda") : -2]
    with pytest.raises(DataError, match="more than 500 passes"):
        decode_image(whole[:-2] + last_scan * 500 + whole[-2:])


def test_text_in_a_png_that_unpacks_to_gigabytes_is_refused():
    bomb = zlib.compress(bytes(200 * 2**20), 9)
    png = KINDS["png"][:33] + png_chunk(b"zTXt", b"a\0\0" + bomb) + KINDS["png"][33:]
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="damaged or truncated PNG: Decompressed data too large"):
            decode_image(png)
        assert tracemalloc.get_traced_memory()[1] < 20 * 2**20
    finally:
        tracemalloc.stop()


def test_too_many_bytes_are_refused():
    with pytest.raises(DataError, match=r"more than the limit 100; to allow it: .* --max-file-bytes \d+, then"):
        decode_image(KINDS["png"], Limits(max_file_bytes=100))


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_random_damage_is_refused_or_gives_an_image_and_nothing_else():
    random = np.random.default_rng(7)
    for i in range(600):
        data = bytearray(list(KINDS.values())[i % len(KINDS)])
        for position in random.integers(0, min(len(data), (100, 4000)[i % 2]), 3):
            data[position] = random.integers(0, 256)
        try:
            image = decode_image(bytes(data), Limits(max_pixels=10**6))
        except DataError:
            continue
        assert image.dtype == np.uint8
        assert image.ndim == 3


def test_damage_is_reported_and_never_printed(capfd, recwarn):
    noisy = KINDS["jpeg"][:-2] + bytes(30) + b"\xff\xd9"  # libjpeg by itself: "28 extraneous bytes before marker 0xd9"
    decode_image(noisy)
    with pytest.raises(DataError):
        decode_image(noisy[:1500] + b"\xff\xd9")
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list


@pytest.mark.parametrize("size", [(2**24 + 1, 1), (1, 2**24 + 1), (90_000_000, 1), (100_000_000, 1)])
@pytest.mark.parametrize("kind", ["bmp", "png"])
def test_a_line_that_is_too_long_is_refused_by_the_header(kind, size):
    """Of lines of 72 million pixels and more, Pillow had a MemoryError, which ended the tool."""
    if kind == "bmp":
        info = struct.pack("<IiiHHIIiiII", 40, *size, 1, 24, 0, 0, 0, 0, 0, 0)
        data = b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + info
    else:
        header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 0, 0, 0, 0))
        data = b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", b"") + png_chunk(b"IEND", b"")
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=f"too elongated: {size[0]} x {size[1]} pixels"):
            decode_image(data)
        assert tracemalloc.get_traced_memory()[1] < 10**6
    finally:
        tracemalloc.stop()
