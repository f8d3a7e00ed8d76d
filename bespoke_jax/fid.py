"""Frechet distance of two sets of samples, by mean and covariance of their features (Heusel et al. 2017, arXiv:1706.08500).

With the features of `models.inception` it is the FID. Statistics are gathered in batches, in float64 on the host, and those of
several processes merge into one.
"""

import pathlib
import warnings
import zipfile
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

__all__ = ["FeatureStatistics", "TooFewSamplesWarning", "frechet_distance", "load_statistics", "statistics_of"]

_MANY = 10**9  # files of statistics do not say of how many samples


class TooFewSamplesWarning(UserWarning):
    """A covariance of fewer samples than dimensions is singular, and the distance is far off."""


class FeatureStatistics(NamedTuple):
    """Count, mean and scatter of features: what their Gaussian fit needs, and no more.

    Attributes:
        count: samples so far.
        mean: [D], float64.
        scatter: [D, D], float64: the sum over samples of (f - mean) (f - mean)^T.

    Examples:
        >>> import numpy as np
        >>> features = np.random.default_rng(0).standard_normal((10, 2))
        >>> halves = [FeatureStatistics.of(half) for half in (features[:3], features[3:])]
        >>> merged = halves[0].merge(halves[1])
        >>> bool(np.allclose(merged.covariance, np.cov(features.T)))
        True
    """

    count: int
    mean: np.ndarray
    scatter: np.ndarray

    @classmethod
    def empty(cls, dimension: int) -> "FeatureStatistics":
        """Of no samples: merging it changes nothing."""
        return cls(0, np.zeros(dimension), np.zeros((dimension, dimension)))

    @classmethod
    def of(cls, features) -> "FeatureStatistics":
        """Of one batch, [N, D].

        Raises:
            ValueError: for another number of axes, and for features that are not finite.
        """
        features = np.asarray(features, np.float64)
        if features.ndim != 2:
            raise ValueError(f"FeatureStatistics: wanted features [N, D], got {features.shape}; flatten each sample's.")
        if not np.isfinite(features).all():
            bad = int((~np.isfinite(features)).any(axis=1).sum())
            raise ValueError(f"FeatureStatistics: {bad} of {len(features)} samples have features that are not finite.")
        if not len(features):
            return cls.empty(features.shape[1])
        mean = features.mean(axis=0)
        return cls(len(features), mean, (features - mean).T @ (features - mean))

    def merge(self, other: "FeatureStatistics") -> "FeatureStatistics":
        """Of both sets together (Chan, Golub & LeVeque 1983: no sums of squares that cancel). The order does not matter.

        Raises:
            ValueError: if the features have other dimensions.
        """
        if self.mean.shape != other.mean.shape:
            raise ValueError(
                f"merge: features of {len(self.mean)} and of {len(other.mean)} dimensions; wanted the same."
            )
        count = self.count + other.count
        if not count:
            return self
        apart, share = other.mean - self.mean, other.count / count
        scatter = self.scatter + other.scatter + np.outer(apart, apart) * (self.count * share)
        return FeatureStatistics(count, self.mean + share * apart, scatter)

    @property
    def covariance(self) -> np.ndarray:
        """[D, D], over count - 1, as all codes for the FID have it. Raises ValueError for fewer than two samples."""
        if self.count < 2:
            raise ValueError(f"covariance: wanted 2 samples or more, got {self.count}.")
        return self.scatter / (self.count - 1)


def statistics_of(batches: Iterable, features: Callable) -> FeatureStatistics:
    """Statistics of the features of all batches.

    Args:
        batches: of samples; read one at a time, so a generator will do.
        features: a batch [B, ...] -> its features [B, D].

    Raises:
        ValueError: for no batches, and features of another shape.

    Examples:
        >>> import numpy as np
        >>> statistics_of([np.eye(3), np.ones((2, 3))], features=lambda x: x[:, :2]).count
        5
    """
    total = None
    for batch in batches:
        part = FeatureStatistics.of(features(batch))
        total = part if total is None else total.merge(part)
    if total is None:
        raise ValueError("statistics_of: got no batches, wanted one or more.")
    return total


def frechet_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """||mu_a - mu_b||^2 + tr(A + B - 2 (A B)^1/2) of the two Gaussians: the FID, if the features are Inception's.

    The trace of the root is that of (A^1/2 B A^1/2)^1/2, by eigenvalues of symmetric matrices: real whatever the rank, with
    nothing added to the diagonal (Dowson & Landau 1982 for the distance).

    Raises:
        ValueError: if the features have other dimensions, or either side has fewer than two samples.

    Warns:
        TooFewSamplesWarning: if either side has no more samples than its features have dimensions.

    Examples:
        >>> import numpy as np
        >>> x = np.random.default_rng(0).standard_normal((100, 2))
        >>> round(frechet_distance(FeatureStatistics.of(x), FeatureStatistics.of(x + 3)), 6)
        18.0
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(
            f"frechet_distance: features of {len(a.mean)} and of {len(b.mean)} dimensions; wanted both from one function."
        )
    for name, side in (("a", a), ("b", b)):
        if side.count <= len(side.mean):
            warnings.warn(
                f"frechet_distance: {name} has {side.count} samples of {len(side.mean)} features: its covariance is "
                "singular and the distance far too large. Wanted many times more; the FID is customarily of 50,000.",
                TooFewSamplesWarning,
                stacklevel=2,
            )
    root = _square_root(a.covariance)
    eigenvalues = np.linalg.eigvalsh(root @ b.covariance @ root)
    trace_of_root = np.sqrt(np.maximum(eigenvalues, 0)).sum()
    apart = np.square(a.mean - b.mean).sum()
    # Both terms are at least 0; rounding of a singular covariance is not a negative distance.
    return float(apart + max(np.trace(a.covariance) + np.trace(b.covariance) - 2 * trace_of_root, 0.0))


def _square_root(matrix):
    """Of a symmetric matrix without negative eigenvalues but for rounding."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def load_statistics(path) -> FeatureStatistics:
    """Statistics of a data set from a .npz with `mu` [D] and `sigma` [D, D], such as EDM's fid-refs (arXiv:2206.00364).

    The file does not say of how many samples; they are taken to be many.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no .npz, lacks one of the two, or they are of other shapes or not finite.

    Examples:
        >>> load_statistics("nowhere.npz")
        Traceback (most recent call last):
        FileNotFoundError: nowhere.npz: no such file.
    """
    if not pathlib.Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file.")
    try:
        with np.load(path) as file:
            arrays = {name: np.asarray(file[name], np.float64) for name in ("mu", "sigma") if name in file}
    except (OSError, ValueError, TypeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: truncated, or no .npz of statistics ({type(error).__name__}: {error}).") from None
    shapes = {name: array.shape for name, array in arrays.items()}
    if set(shapes) != {"mu", "sigma"} or len(shapes["mu"]) != 1 or shapes["sigma"] != 2 * shapes["mu"]:
        raise ValueError(f"{path}: wanted mu [D] and sigma [D, D], got {shapes or 'neither'}.")
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise ValueError(f"{path}: mu or sigma is not finite.")
    return FeatureStatistics(_MANY, arrays["mu"], arrays["sigma"] * (_MANY - 1))
