"""Which attributes the synthetic faces of a generator have: glasses, beards, kinds of hair, mouths, backgrounds.

`synthetic_faces` knows what it drew, so a small classifier can be trained on as many labelled faces as it needs. Its
answers turn "no generated face has glasses" into a number: the share of faces with each value of an attribute.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import paddle
from paddle import nn

from deploy.files import PathLike
from deploy.seeds import bits, key

from ..data import synthetic_faces
from ..data.crop import fit_image
from ..images import to_float

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "glasses": tuple(dict.fromkeys(synthetic_faces.GLASSES)),
    "beard": tuple(dict.fromkeys(synthetic_faces.BEARDS)),
    "hair_style": tuple(dict.fromkeys(synthetic_faces.STYLES)),
    "mouth": tuple(dict.fromkeys(synthetic_faces.MOUTHS)),
    "pattern": tuple(dict.fromkeys(synthetic_faces.PATTERNS)),
}
IMAGE_SIZE = 64
TRAINING_SERIES = 7  # a series of faces that is not the training data's, so that nothing measured was learned
_WIDTHS = (3, 24, 48, 96, 128)

Shares = dict[str, dict[str, float]]


class AttributeClassifier(nn.Layer):
    """Images, float32 [N, 3, 64, 64] in [-1, 1], to the logits of all values of all attributes, [N, 34]."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Layer] = []
        for before, after in zip(_WIDTHS, _WIDTHS[1:]):
            layers += [nn.Conv2D(before, after, 3, 2, 1, bias_attr=False), nn.BatchNorm2D(after), nn.ReLU()]
        self.features = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.3))
        self.logits = nn.Linear(_WIDTHS[-1] * (IMAGE_SIZE // 16) ** 2, sum(map(len, ATTRIBUTES.values())))

    def forward(self, images):
        return self.logits(self.features(images))

    def predict(self, images_uint8: np.ndarray, batch_size: int = 250) -> dict[str, np.ndarray]:
        """The index of the likeliest value of each attribute, int64 [N] by attribute, of uint8 [N, 3, 64, 64]."""
        self.eval()
        with paddle.no_grad():
            parts = [
                self(paddle.to_tensor(to_float(images_uint8[i : i + batch_size]))).numpy()
                for i in range(0, len(images_uint8), batch_size)
            ]
        return {name: columns.argmax(axis=1) for name, columns in _split(np.concatenate(parts)).items()}

    def shares(self, images_uint8: np.ndarray) -> Shares:
        """The share of images, uint8 [N, 3, 64, 64], that have each value of each attribute."""
        found = self.predict(images_uint8)
        return {
            name: {value: float((found[name] == i).mean()) for i, value in enumerate(values)}
            for name, values in ATTRIBUTES.items()
        }

    def save(self, path: PathLike) -> None:
        """Write the weights as .npz."""
        np.savez(path, **{name: tensor.numpy() for name, tensor in self.state_dict().items()})

    @classmethod
    def load(cls, path: PathLike) -> AttributeClassifier:
        """A classifier with the weights of a file that `save` wrote. Raises OSError if there is none."""
        classifier = cls()
        with np.load(path) as weights:
            classifier.set_state_dict({name: weights[name] for name in weights.files})
        return classifier


def labelled_faces(count: int, first: int = 0) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Synthetic faces in the crop of the training data, uint8 [count, 3, 64, 64], and the index of each one's value by
    attribute, int64 [count]. They are faces `first`, `first` + 1, ... of a series of their own."""

    def one(index: int) -> tuple[np.ndarray, synthetic_faces.Face]:
        image = synthetic_faces.draw_face(index, TRAINING_SERIES)
        return fit_image(image, IMAGE_SIZE), synthetic_faces.describe(index, TRAINING_SERIES)

    with ThreadPoolExecutor() as pool:
        drawn = list(pool.map(one, range(first, first + count)))
    images = np.ascontiguousarray(np.stack([image for image, _ in drawn]).transpose(0, 3, 1, 2))
    faces = [face for _, face in drawn]
    labels = {
        name: np.array([values.index(getattr(face, name)) for face in faces]) for name, values in ATTRIBUTES.items()
    }
    return images, labels


def train_classifier(
    count: int = 14_000, steps: int = 1250, batch_size: int = 64, seed: int = 0
) -> AttributeClassifier:
    """A classifier trained on `count` faces, moved, blurred and noised as generated ones may be: two minutes on two
    cores. Sets Paddle's random seed."""
    paddle.seed(seed)
    images, labels = labelled_faces(count)
    classifier = AttributeClassifier()
    rate = paddle.optimizer.lr.CosineAnnealingDecay(2e-3, steps)
    optimizer = paddle.optimizer.Adam(rate, parameters=classifier.parameters())
    classifier.train()
    for step in range(steps):
        random = bits(np.array([key(seed, step)]), batch_size + 2)[0].astype(np.int64)
        chosen, (down, right) = random[:-2] % count, random[-2:] % 5 - 2
        batch = paddle.to_tensor(to_float(np.roll(images[chosen], (down, right), (2, 3))))
        batch = batch + 0.15 * paddle.rand([1]) * paddle.randn(batch.shape)
        if step % 2:
            batch = nn.functional.avg_pool2d(batch, 3, 1, 1)
        logits = _split(classifier(batch))
        losses = [
            nn.functional.cross_entropy(logits[name], paddle.to_tensor(labels[name][chosen])) for name in ATTRIBUTES
        ]
        sum(losses[1:], losses[0]).backward()
        optimizer.step()
        optimizer.clear_grad()
        rate.step()
    return classifier


def compare_shares(real: Mapping[str, Mapping[str, float]], fake: Mapping[str, Mapping[str, float]]) -> float:
    """Mean total variation distance of the attributes' shares: 0 when equal, 1 when no value occurs in both."""
    distances = [
        0.5 * sum(abs(real[name][value] - fake[name][value]) for value in values) for name, values in ATTRIBUTES.items()
    ]
    return float(np.mean(distances))


def _split(logits):
    """Columns [N, 34] by attribute, of an array or a tensor."""
    parts, start = {}, 0
    for name, values in ATTRIBUTES.items():
        parts[name] = logits[:, start : start + len(values)]
        start += len(values)
    return parts
