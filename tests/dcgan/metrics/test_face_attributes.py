from __future__ import annotations

import numpy as np
import pytest

from dcgan.data import synthetic_faces
from dcgan.metrics.face_attributes import (
    ATTRIBUTES,
    TRAINING_SERIES,
    AttributeClassifier,
    compare_shares,
    labelled_faces,
    train_classifier,
)


def test_labels_are_what_the_faces_were_drawn_with():
    images, labels = labelled_faces(3, first=5)
    assert images.shape == (3, 3, 64, 64) and images.dtype == np.uint8
    for i in range(3):
        face = synthetic_faces.describe(5 + i, TRAINING_SERIES)
        for name, values in ATTRIBUTES.items():
            assert values[labels[name][i]] == getattr(face, name)


def test_a_short_training_beats_the_most_frequent_answer():
    classifier = train_classifier(count=300, steps=80, batch_size=16)
    images, labels = labelled_faces(200, first=10_000)
    found = classifier.predict(images)
    for name in ("glasses", "hair_style"):
        most_frequent = np.bincount(labels[name]).max() / len(images)
        assert (found[name] == labels[name]).mean() > most_frequent + 0.03
    shares = classifier.shares(images)
    assert shares.keys() == ATTRIBUTES.keys()
    assert all(sum(values.values()) == pytest.approx(1) for values in shares.values())


def test_a_saved_classifier_answers_the_same(tmp_path):
    images, _ = labelled_faces(8)
    classifier = AttributeClassifier()
    classifier.save(tmp_path / "weights.npz")
    loaded = AttributeClassifier.load(tmp_path / "weights.npz")
    assert classifier.shares(images) == loaded.shares(images)


def test_shares_are_compared_by_total_variation():
    def all_of(position):
        return {name: {v: float(v == values[position]) for v in values} for name, values in ATTRIBUTES.items()}

    assert compare_shares(all_of(0), all_of(0)) == 0
    assert compare_shares(all_of(0), all_of(-1)) == 1
