from __future__ import annotations

import io
import struct
import zlib

import cv2
import numpy as np
import pytest

from deploy import images as deploy_images


def test_levels_are_the_nearest_and_both_ends_are_reached():
    """Against rounding in float64, for every level, halfway points and what lies outside the range."""
    floats = np.concatenate([np.linspace(-1.3, 1.3, 20_001), np.arange(256) / 127.5 - 1, [np.inf, -np.inf]])
    expected = [round((min(max(x, -1.0), 1.0) + 1) * 127.5) for x in floats.tolist()]
    assert deploy_images.to_uint8(floats).tolist() == expected
    assert deploy_images.to_uint8(np.array([-1, 1, 0], np.float32)).tolist() == [0, 255, 128]


def test_png_gives_the_pixels_back_in_rgb_and_is_a_valid_file(images, tmp_path):
    content = deploy_images.encode(images[3], ".png", "seed 3, model abc")
    decoded = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.array_equal(decoded.transpose(2, 0, 1), images[3])
    stream, chunks = io.BytesIO(content[8:]), []
    while True:
        length, kind = struct.unpack(">I4s", stream.read(8))
        data = stream.read(length)
        assert struct.unpack(">I", stream.read(4))[0] == zlib.crc32(kind + data)
        chunks.append((kind, data))
        if kind == b"IEND":
            break
    assert chunks[0][0] == b"IHDR" and (b"tEXt", b"Comment\0seed 3, model abc") in chunks and not stream.read()


def test_jpg_is_close_and_begins_with_its_header():
    ramp = np.linspace(0, 255, 32).astype(np.uint8)
    image = np.stack([np.tile(ramp, (32, 1)), np.tile(ramp[:, None], (1, 32)), np.full((32, 32), 60, np.uint8)])
    content = deploy_images.encode(image, ".jpg", "seed 3, model abc")
    assert content[2:4] == b"\xff\xe0" and b"\xff\xfe\x00\x13seed 3, model abc" in content[:64]
    decoded = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)[..., ::-1].transpose(2, 0, 1)
    assert np.abs(decoded.astype(int) - image).mean() < 3


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_whole_means_from_first_to_last_byte_and_of_the_same_comment(images, tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    assert not deploy_images.is_whole(path, "seed 1")
    content = deploy_images.encode(images[0], suffix, "seed 1")
    path.write_bytes(content)
    assert deploy_images.is_whole(path, "seed 1")
    assert not deploy_images.is_whole(path, "seed 11") and not deploy_images.is_whole(path, "seed ")
    for wrong in (b"", content[:5], content[:-1], content[: len(content) // 2], b"\0" * len(content), content[1:]):
        path.write_bytes(wrong)
        assert not deploy_images.is_whole(path, "seed 1")


def test_any_changed_byte_of_a_png_is_noticed(images, tmp_path):
    path = tmp_path / "x.png"
    content = deploy_images.encode(images[0, :, :6, :6], ".png", "seed 1")
    for position in range(len(content)):
        path.write_bytes(content[:position] + bytes([content[position] ^ 16]) + content[position + 1 :])
        assert not deploy_images.is_whole(path, "seed 1"), position
    for start in range(0, len(content) - 12):  # as a power cut leaves a file: zeros where its pixels were
        path.write_bytes(content[:start] + bytes(12) + content[start + 12 :])
        assert not deploy_images.is_whole(path, "seed 1"), start


def test_levels_are_not_taken_for_floats():
    with pytest.raises(ValueError, match=r"floats in \[-1, 1\], received uint8"):
        deploy_images.to_uint8(np.zeros([1, 3, 4, 4], np.uint8))
