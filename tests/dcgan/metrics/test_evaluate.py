import dataclasses

import numpy as np
import pytest

from dcgan.data.prepare import prepare
from dcgan.metrics.evaluate import chosen_real, crop_of, evaluate, measure, protocol, protocol_label


@pytest.fixture(scope="module")
def baseline(faces):
    """Figures of real images against others."""
    return measure(*faces)


def test_the_order_of_faults_is_that_of_the_eye(faces, spoil, baseline):
    """Real against real is the baseline; every fault lies above it, stronger ones higher."""
    real, other = faces
    for fault, amounts, at_least in (
        ("blur", (0.5, 1, 2), 1.5),
        ("noise", (6, 12, 24), 1.5),
        ("jpeg", (50, 20, 8), 1.1),
        ("repeat", (32, 16, 4), 1.2),
    ):
        found = [measure(real, spoil[fault](other, amount))["swd"] / baseline["swd"] for amount in amounts]
        assert 1 < found[0] < found[1] < found[2] and found[1] > at_least, (fault, found)


def test_mirrored_faces_are_as_good_as_real_ones(faces, baseline):
    real, other = faces
    mirrored = measure(real, np.ascontiguousarray(other[..., ::-1]))
    assert mirrored["swd"] == pytest.approx(baseline["swd"], rel=0.1)
    assert mirrored["ms_ssim"] == pytest.approx(baseline["ms_ssim"], abs=0.005)


def test_repeated_faces_show_in_ms_ssim_and_blurred_ones_hardly(faces, spoil, baseline):
    real, other = faces
    assert measure(real, spoil["repeat"](other, 16))["ms_ssim"] > baseline["ms_ssim"] + 0.05
    assert abs(baseline["ms_ssim"] - baseline["ms_ssim_real"]) < 0.05


def test_features_add_the_figures_of_a_trained_network(faces):
    def brightness(images):
        return images.mean(axis=(2, 3))

    real, other = faces
    figures = measure(real, np.clip(other + 20.0, 0, 255).astype(np.uint8), brightness)
    assert {"fid", "kid", "kid_std", "precision", "recall"} < set(figures)
    assert figures["fid"] > 10 * measure(real, other, brightness)["fid"]


def test_too_few_images_two_shapes_and_floats_are_refused(faces):
    with pytest.raises(ValueError, match="at least 10 images"):
        measure(faces[0][:9], faces[1][:9])
    with pytest.raises(ValueError, match=r"\[128, 3, 64, 64\] and uint8 \[20, 3, 64, 64\]"):
        measure(faces[0], faces[1][:20])
    with pytest.raises(ValueError, match="and float32 .*dcgan.to_uint8 makes levels of floats"):
        measure(faces[0], faces[0].astype(np.float32))


@pytest.fixture
def data(tmp_path):
    return prepare("cartoon:60", tmp_path / "faces.npy", image_size=16, crop="center", workers=1)


def test_a_report_says_how_it_was_measured(data):
    fake = chosen_real(data, 20, skip=20)
    report, nearest = evaluate(data, fake, {"kind": "test", "step": 7})
    assert report["protocol"] == {
        "version": 1,
        "n_real": 20,
        "n_generated": 20,
        "image_size": 16,
        "crop": "center",
        "resizer": "OpenCV: area down, bilinear up",
        "data": data.digest,
        "chosen": "at random, seed 0",
        "features": None,
    }
    assert report["target"]["step"] == 7 and len(report["target"]["pixels_sha256"]) == 64
    assert report["figures"]["nearest_ratio"] == 0  # they are training images
    assert nearest.dtype == np.uint8 and nearest.shape[0] == 3
    held_out, _ = evaluate(data, fake, {}, held_out=True)
    assert 0.7 < held_out["figures"]["nearest_ratio"] < 1.4


def test_images_are_chosen_alike_each_time_and_apart_from_those_skipped(data):
    first, again, others = chosen_real(data, 30), chosen_real(data, 30), chosen_real(data, 30, skip=30)
    assert np.array_equal(first, again)
    assert not {image.tobytes() for image in first} & {image.tobytes() for image in others}


def test_features_that_would_give_no_figures_are_refused(data):
    class Huge:
        protocol = {"sha256": "0"}

        def __call__(self, images):
            return images.reshape(len(images), -1)[:, :3] * 1e300

    with pytest.raises(ValueError, match="20 of 20 images of the first set have features that are not finite or"):
        evaluate(data, chosen_real(data, 20), {}, Huge())


def test_another_programs_packed_file_has_a_crop_that_is_not_known(data):
    assert crop_of(data) == "center"
    assert crop_of(dataclasses.replace(data, info={})) == "as packed"


def test_a_label_tells_protocols_apart():
    used = dict(n=500, image_size=64, crop="tutorial", data="8f3a12cdef", chosen="first")
    assert protocol_label(protocol(**used)) == "1/500/64/tutorial/8f3a12cd"
    for name, other in (("n", 400), ("image_size", 32), ("crop", "center"), ("data", "00")):
        assert protocol_label(protocol(**{**used, name: other})) != protocol_label(protocol(**used))
