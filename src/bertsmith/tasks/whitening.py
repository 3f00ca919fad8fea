"""Whitening: the linear map after which vectors have mean 0 and no correlations.

Vectors of pieces' means crowd together in a narrow cone, so that all cosines are high. Whitened,
cosines tell more, and the first few dimensions hold most of it.

Source: Su et al. 2021, "Whitening Sentence Representations for Better Semantics and Faster
Retrieval", algorithm 1.

Shapes:  N texts   H hidden size   K kept dimensions
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bertsmith.data.outputs import new_file
from bertsmith.errors import ConfigError, DataError, MissingInputError

# A direction in which vectors vary less than this share of the largest variance is rounding, which
# must not be blown up to a variance of 1.
_LEAST_VARIANCE = 1e-10
_SHORTEST = 1e-12  # length by which a vector is divided at least


@dataclass(frozen=True)
class Whitening:
    """A map that was fitted on some texts; applied to others, it makes them comparable with them.

    A file of it is an `.npz` with two arrays, `mean` and `kernel`.
    """

    mean: NDArray[np.float32]  # [H]
    kernel: NDArray[np.float32]  # [H, K]

    def apply(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Returns whitened vectors. [N, H] -> [N, K]

        Raises:
            ConfigError: they have another width than those that it was fitted on.
        """
        if vectors.shape[1] != len(self.mean):
            raise ConfigError(
                f"the whitening is for vectors of {len(self.mean)} numbers, but the model makes "
                f"{vectors.shape[1]}; expected the one that was fitted with this model"
            )
        return np.matmul(vectors - self.mean, self.kernel, dtype=np.float32)  # [N, K]

    def save(self, path: Path) -> None:
        """Writes the file."""
        with new_file(path, "wb") as file:
            np.savez(file, mean=self.mean, kernel=self.kernel)

    @classmethod
    def load(cls, path: Path) -> Whitening:
        """Returns the map of a file.

        Raises:
            MissingInputError: there is no such file.
            DataError: it is not one of a whitening.
        """
        if not path.is_file():
            raise MissingInputError(
                f"{path}: there is no such file; expected one that `bertsmith embed --whitening` "
                f"wrote beside its vectors"
            )
        try:
            with np.load(path, allow_pickle=False) as found:
                mean, kernel = found["mean"], found["kernel"]
        except (OSError, ValueError, KeyError, EOFError, TypeError) as error:
            raise DataError(
                f"{path}: cannot be read as a whitening ({error}); expected the .npz that "
                f"`bertsmith embed --whitening` wrote beside its vectors"
            ) from None
        if mean.ndim != 1 or kernel.ndim != 2 or len(kernel) != len(mean):
            raise DataError(
                f"{path}: holds a mean {mean.shape} and a kernel {kernel.shape}; "
                f"expected [H] and [H, K]"
            )
        return cls(mean.astype(np.float32), kernel.astype(np.float32))


@dataclass
class Moments:
    """The sums from which a whitening is fitted; vectors come a block at a time."""

    size: int  # H
    count: int = 0
    total: NDArray[np.float64] = field(init=False)  # [H]
    products: NDArray[np.float64] = field(init=False)  # [H, H]
    _origin: NDArray[np.float64] | None = None  # near the mean, so that little is lost to it

    def __post_init__(self) -> None:
        self.total = np.zeros(self.size)
        self.products = np.zeros((self.size, self.size))

    def add(self, vectors: NDArray[np.float32]) -> None:
        """Takes in vectors. [N, H]"""
        if self._origin is None:
            self._origin = vectors.mean(axis=0, dtype=np.float64)
        centred = vectors - self._origin  # [N, H]
        self.count += len(vectors)
        self.total += centred.sum(axis=0)
        self.products += centred.T @ centred

    def whitening(self, dimensions: int | None = None) -> Whitening:
        """Returns the map that keeps the `dimensions` of the largest variances, or all.

        Raises:
            DataError: the texts are too few to have a covariance of so many dimensions.
        """
        wanted = self.size if dimensions is None else dimensions
        if self._origin is None or self.count < 2:
            raise DataError(
                f"{self.count} texts have no covariance; expected two or more to fit a whitening on"
            )
        shift = self.total / self.count  # [H]
        covariance = self.products / self.count - np.outer(shift, shift)  # [H, H]
        directions, variances, _ = np.linalg.svd(covariance)  # [H, H], [H], largest first
        known = int((variances > _LEAST_VARIANCE * variances[0]).sum())
        if known < wanted:
            raise DataError(
                f"the vectors of {self.count} texts vary in {known} dimensions, fewer than the "
                f"{wanted} to keep; expected more texts, or --dimensions {max(1, known)} or less"
            )
        kernel = directions[:, :wanted] / np.sqrt(variances[:wanted])  # [H, K]
        return Whitening((self._origin + shift).astype(np.float32), kernel.astype(np.float32))


def finished(
    vectors: NDArray[np.float32], whitening: Whitening | None, normalize: bool
) -> NDArray[np.float32]:
    """Returns vectors whitened, if there is a whitening, then one unit long. [N, H] -> [N, K]"""
    if whitening is not None:
        vectors = whitening.apply(vectors)  # [N, K]
    if not normalize:
        return vectors
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)  # [N, 1]
    return vectors / np.maximum(lengths, _SHORTEST)  # [N, K]


def check_dimensions(dimensions: int | None, size: int) -> None:
    """Raises ConfigError where vectors of `size` numbers cannot keep so many of them."""
    if dimensions is not None and not 1 <= dimensions <= size:
        raise ConfigError(f"dimensions is {dimensions}; expected 1 to {size}, the model's width")
