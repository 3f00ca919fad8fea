"""Whitened vectors have mean 0 and no correlations, by the published algorithm."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from bertsmith.errors import ConfigError, DataError, MissingInputError
from bertsmith.tasks.whitening import Moments, Whitening, check_dimensions, finished


def narrow_cone(count: int = 500, size: int = 12) -> NDArray[np.float32]:
    rng = np.random.default_rng(0)
    mixed = rng.normal(size=(count, size)) @ rng.normal(size=(size, size))
    return (mixed + 20 * rng.normal(size=size)).astype(np.float32)


def fitted(vectors: NDArray[np.float32], dimensions: int | None = None) -> Whitening:
    moments = Moments(vectors.shape[1])
    for block in np.array_split(vectors, 7):
        moments.add(block)
    return moments.whitening(dimensions)


def test_whitened_vectors_have_mean_zero_and_no_correlations() -> None:
    vectors = narrow_cone()
    found = fitted(vectors).apply(vectors)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(np.cov(found.T, bias=True), np.eye(12), atol=1e-4)


def test_it_is_the_published_algorithm() -> None:
    """Algorithm 1 of Su et al. 2021, in double precision and in one piece."""
    vectors = narrow_cone().astype(np.float64)
    mean = vectors.mean(axis=0)
    directions, variances, _ = np.linalg.svd(np.cov(vectors.T, bias=True))
    kernel = (directions @ np.diag(variances**-0.5))[:, :5]
    expected = (vectors - mean) @ kernel
    found = fitted(vectors.astype(np.float32), 5).apply(vectors.astype(np.float32))
    assert found.shape == (500, 5)
    signs = np.sign((found * expected).sum(axis=0))  # of a direction, either is as good
    np.testing.assert_allclose(found * signs, expected, atol=1e-3)


def test_a_whitening_comes_back_from_its_file(tmp_path: Path) -> None:
    vectors = narrow_cone()
    whitening = fitted(vectors, 4)
    whitening.save(tmp_path / "a.whitening.npz")
    again = Whitening.load(tmp_path / "a.whitening.npz")
    assert np.array_equal(again.apply(vectors), whitening.apply(vectors))
    with np.load(tmp_path / "a.whitening.npz") as file:  # what the documentation promises
        assert file["mean"].shape == (12,)
        assert file["kernel"].shape == (12, 4)


def test_vectors_are_whitened_before_they_are_normalised() -> None:
    vectors = narrow_cone()
    whitening = fitted(vectors)
    found = finished(vectors, whitening, normalize=True)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    expected = whitening.apply(vectors)
    expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_too_few_texts_are_told() -> None:
    with pytest.raises(DataError, match="1 texts have no covariance"):
        fitted(narrow_cone(1)[:1].repeat(1, axis=0))
    with pytest.raises(DataError, match="the vectors of 5 texts vary in 4 dimensions, fewer than"):
        fitted(narrow_cone(5))


def test_what_is_no_whitening_or_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="there is no such file"):
        Whitening.load(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("not an archive")
    with pytest.raises(DataError, match="cannot be read as a whitening"):
        Whitening.load(tmp_path / "text.npz")
    np.save(tmp_path / "vectors.npy", np.zeros((3, 4), np.float32))
    with pytest.raises(DataError, match="vectors.npy: cannot be read as a whitening"):
        Whitening.load(tmp_path / "vectors.npy")
    np.savez(tmp_path / "other.npz", mean=np.zeros(3), kernel=np.zeros((4, 2)))
    with pytest.raises(DataError, match=r"a mean \(3,\) and a kernel \(4, 2\)"):
        Whitening.load(tmp_path / "other.npz")
    with pytest.raises(ConfigError, match="for vectors of 12 numbers, but the model makes 8"):
        fitted(narrow_cone()).apply(np.zeros((2, 8), np.float32))
    with pytest.raises(ConfigError, match="dimensions is 13; expected 1 to 12"):
        check_dimensions(13, 12)


def test_a_vector_of_zeros_stays_one_when_vectors_are_normalised() -> None:
    found = finished(np.array([[0, 0], [3, 4]], np.float32), None, True)
    np.testing.assert_allclose(found, np.array([[0, 0], [0.6, 0.8]]), atol=1e-7)
