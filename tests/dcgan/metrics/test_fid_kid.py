import numpy as np
import pytest

from dcgan.metrics import fid_kid as distances
from dcgan.metrics.fid_kid import frechet_distance, kernel_distance, precision_recall


@pytest.fixture
def clouds():
    """Two sets of points of one distribution, [300, 8] and [400, 8]."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(300, 8)), rng.normal(size=(400, 8))


def test_frechet_distance_of_independent_features_is_a_sum_over_them(clouds):
    """For one feature it is (difference of means)^2 + (difference of deviations)^2."""
    a, b = clouds[0][:, :1] * 3 + 1, clouds[1][:, :1] * 0.5 - 2
    expected = (a.mean() - b.mean()) ** 2 + (a.std(ddof=1) - b.std(ddof=1)) ** 2
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_of_correlated_features_agrees_with_a_matrix_root(clouds):
    rng = np.random.default_rng(1)
    a, b = clouds[0] @ rng.normal(size=(8, 8)), clouds[1] @ rng.normal(size=(8, 8)) + 1
    ca, cb = np.cov(a.T), np.cov(b.T)
    roots = np.sqrt(np.linalg.eigvals(ca @ cb).astype(complex))  # eigenvalues of the product, not the symmetric form
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca + cb) - 2 * roots.real.sum()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-8)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)


def test_kernel_distance_is_the_unbiased_estimate_of_its_definition(clouds, monkeypatch):
    a, b = clouds[0][:12], clouds[1][:12] + 1
    monkeypatch.setattr(distances, "KERNEL_BLOCKS", 1)

    def kernel(x, y):
        return (np.dot(x, y) / 8 + 1) ** 3

    def within(rows):
        return np.mean([kernel(rows[i], rows[j]) for i in range(12) for j in range(12) if i != j])

    expected = within(a) + within(b) - 2 * np.mean([kernel(x, y) for x in a for y in b])
    assert kernel_distance(a, b)[0] == pytest.approx(expected, rel=1e-9)


def test_kernel_distance_of_one_distribution_is_zero_whatever_the_number(clouds):
    rng = np.random.default_rng(2)
    for count in (40, 200):
        values = [kernel_distance(rng.normal(size=(count, 8)), rng.normal(size=(count, 8)))[0] for _ in range(10)]
        assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(10)
    distance, deviation = kernel_distance(clouds[0], clouds[1] + 0.5)
    assert distance > 0.5 and deviation > 0


def test_precision_and_recall_agree_with_their_definition(clouds):
    real, fake = clouds[0][:50], clouds[1][:60] * 1.3 + 0.3

    def share(points, reference):
        inside = 0
        for point in points:
            for i, centre in enumerate(reference):
                others = sorted(np.linalg.norm(centre - other) for j, other in enumerate(reference) if j != i)
                if np.linalg.norm(point - centre) <= others[2]:
                    inside += 1
                    break
        return inside / len(points)

    assert precision_recall(real, fake) == pytest.approx((share(fake, real), share(real, fake)))


def test_precision_falls_with_outliers_and_recall_with_missing_kinds(clouds):
    real, fake = clouds
    few_kinds = np.resize(fake[:10], fake.shape) + np.random.default_rng(3).normal(0, 0.01, fake.shape)
    precision, recall = precision_recall(real, few_kinds)
    assert precision > 0.7 and recall < 0.2
    precision, recall = precision_recall(real, np.concatenate([fake, fake + 100]))
    assert precision < 0.55 and recall > 0.8


@pytest.mark.parametrize("measure", [frechet_distance, kernel_distance, precision_recall])
def test_features_that_are_none_are_refused(measure, clouds):
    a, b = clouds
    spoiled = b.copy()
    spoiled[7, 3] = np.nan
    with pytest.raises(ValueError, match="1 of 400 images of the second set have features that are not finite"):
        measure(a, spoiled)
    with pytest.raises(ValueError, match=r"received \[300, 8\] and \[400, 5\]"):
        measure(a, b[:, :5])
    with pytest.raises(ValueError, match=r"at least [24], received \[1, 8\]"):
        measure(a[:1], b)
