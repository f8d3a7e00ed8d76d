"""Frechet distance of two sets of samples, from mean and covariance of their features (Heusel et al. 2017, arXiv:1706.08500).

With the features of `models.inception` it is the FID. Statistics are accumulated batch by batch in float64 on the host; the
statistics of several processes can be merged.
"""

import io
import math
import pathlib
import warnings
import zipfile
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from bespoke_jax.checks import check_array, check_count, check_type
from bespoke_jax.types import Numbers, PathLike

__all__ = ["FeatureStatistics", "TooFewSamplesWarning", "frechet_distance", "load_statistics", "statistics_of"]

_MANY = 10**9  # files of statistics do not give the number of samples
_MOST_FEATURES = 8192  # allowed in a file: a covariance of 512 MiB; InceptionV3 has 2048
# Tolerances for a covariance that was accumulated in float32:
_ASYMMETRY = 1e-4  # as a share of its largest entry
_NEGATIVE = 1e-3  # a negative eigenvalue, as a share of the largest


class TooFewSamplesWarning(UserWarning):
    """The covariance of fewer samples than dimensions is singular, which makes the distance far too large."""


class FeatureStatistics(NamedTuple):
    """Count, mean and scatter of features: all that their Gaussian fit needs.

    Attributes:
        count: number of samples so far.
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
        """The statistics of no samples, which change nothing when merged."""
        dimension = check_count("dimension", dimension)
        return cls(0, np.zeros(dimension), np.zeros((dimension, dimension)))

    @classmethod
    def of(cls, features: Numbers) -> "FeatureStatistics":
        """The statistics of one batch.

        Args:
            features: [N, D]; N may be 0.

        Raises:
            TypeError: for features that are no real numbers.
            ValueError: for another number of axes, and for features that are not finite.
        """
        values = np.asarray(features)
        if not any(jnp.issubdtype(values.dtype, kind) for kind in (jnp.floating, jnp.integer)):
            raise TypeError(f"features: wanted real numbers, got dtype {values.dtype}.")
        values = values.astype(np.float64)
        if values.ndim != 2 or not values.shape[1]:
            raise ValueError(f"features: wanted shape [N, D], got {values.shape}; flatten the features of each sample.")
        if not np.isfinite(values).all():
            bad = int((~np.isfinite(values)).any(axis=1).sum())
            raise ValueError(f"features: wanted finite numbers, got NaN or infinity in {bad} of {len(values)} samples.")
        if not len(values):
            return cls.empty(values.shape[1])
        mean = values.mean(axis=0)
        return cls(len(values), mean, (values - mean).T @ (values - mean))

    def merge(self, other: "FeatureStatistics") -> "FeatureStatistics":
        """The statistics of both sets together, in either order (Chan, Golub & LeVeque 1983: no sums of squares that cancel).

        Raises:
            TypeError: if `other` is not a `FeatureStatistics`.
            ValueError: if the features have different dimensions.
        """
        check_type("other", other, FeatureStatistics, "FeatureStatistics")
        if self.mean.shape != other.mean.shape:
            raise ValueError(
                f"other: wanted features of {len(self.mean)} dimensions, got features of {len(other.mean)} dimensions."
            )
        count = self.count + other.count
        if not count:
            return self
        apart, share = other.mean - self.mean, other.count / count
        scatter = self.scatter + other.scatter + np.outer(apart, apart) * (self.count * share)
        return FeatureStatistics(count, self.mean + share * apart, scatter)

    @property
    def covariance(self) -> np.ndarray:
        """[D, D], scatter / (count - 1), as in all code for the FID. Raises ValueError for fewer than two samples."""
        if self.count < 2:
            raise ValueError(f"covariance: wanted 2 samples or more, got {self.count}.")
        return self.scatter / (self.count - 1)


def statistics_of(batches: Iterable[Any], features: Callable[[Any], Any]) -> FeatureStatistics:
    """Statistics of the features of all batches.

    Args:
        batches: batches of samples, read one at a time; a generator will do.
        features: a batch [B, ...] -> its features [B, D].

    Raises:
        TypeError: for features that are no real numbers.
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
        raise ValueError("batches: wanted one or more, got none.")
    return total


def frechet_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """||mu_a - mu_b||^2 + tr(A + B - 2 (A B)^1/2) of the two Gaussians (Dowson & Landau 1982): the FID for Inception features.

    (A B)^1/2 has the trace of (A^1/2 B A^1/2)^1/2, which is computed from eigenvalues of symmetric matrices: it is real at any
    rank, and nothing is added to the diagonal.

    Args:
        a, b: the statistics of the two sets.

    Returns:
        The distance, at least 0.

    Raises:
        TypeError: if either side is not a `FeatureStatistics` of real numbers.
        ValueError: if the features have different dimensions, if either side has fewer than two samples, or if its arrays have
            inconsistent shapes or are not finite.

    Warns:
        TooFewSamplesWarning: if either side has no more samples than its features have dimensions.

    Examples:
        >>> import numpy as np
        >>> x = np.random.default_rng(0).standard_normal((100, 2))
        >>> round(frechet_distance(FeatureStatistics.of(x), FeatureStatistics.of(x + 3)), 6)
        18.0
    """
    for name, side in (("a", a), ("b", b)):
        check_type(name, side, FeatureStatistics, "FeatureStatistics")
        d = check_array(f"{name}.mean", side.mean, ("D",)).shape[0]
        check_array(f"{name}.scatter", side.scatter, (d, d))
    if a.mean.shape != b.mean.shape:
        raise ValueError(
            f"b: wanted features of {len(a.mean)} dimensions, as a has, got {len(b.mean)}; use one feature function for both."
        )
    for name, side in (("a", a), ("b", b)):
        if side.count <= len(side.mean):
            warnings.warn(
                f"{name}: wanted many times more samples than features, got {side.count} samples of {len(side.mean)} features: "
                "the covariance is singular and the distance far too large. 50,000 samples are customary for the FID.",
                TooFewSamplesWarning,
                stacklevel=2,
            )
    root = _square_root(a.covariance)
    eigenvalues = np.linalg.eigvalsh(root @ b.covariance @ root)
    trace_of_root = np.sqrt(np.maximum(eigenvalues, 0)).sum()
    apart = np.square(a.mean - b.mean).sum()
    # Both terms are at least 0; rounding of a singular covariance is not a negative distance.
    return float(apart + max(np.trace(a.covariance) + np.trace(b.covariance) - 2 * trace_of_root, 0.0))


def _square_root(matrix: np.ndarray) -> np.ndarray:
    """The root of a symmetric matrix whose eigenvalues are negative only by rounding."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def load_statistics(path: PathLike) -> FeatureStatistics:
    """Statistics of a data set from a .npz with `mu` [D] and `sigma` [D, D], such as EDM's fid-refs (arXiv:2206.00364).

    The file does not give the number of samples, which is assumed to be large. Sizes are compared with that of the file before
    arrays are made, and no pickle is run.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged or no .npz, if one of the two arrays is missing, of another shape, not real or not finite, or
            if `sigma` is no covariance: not symmetric, or with negative eigenvalues.

    Examples:
        >>> load_statistics("nowhere.npz")
        Traceback (most recent call last):
        FileNotFoundError: nowhere.npz: no such file.
    """
    mean, covariance = _mean_and_covariance(path)
    apart, largest = np.abs(covariance - covariance.T).max(), np.abs(covariance).max()
    if apart > _ASYMMETRY * largest:
        raise ValueError(f"{path}: sigma: wanted a symmetric matrix, got one whose asymmetry is {apart:.3g}.")
    covariance = (covariance + covariance.T) / 2
    eigenvalues = np.linalg.eigvalsh(covariance)
    if eigenvalues[0] < -_NEGATIVE * eigenvalues[-1]:
        raise ValueError(
            f"{path}: sigma: wanted a covariance, which has no negative eigenvalues, got the eigenvalue {eigenvalues[0]:.3g}."
        )
    return FeatureStatistics(_MANY, mean, covariance * (_MANY - 1))


def _mean_and_covariance(path: PathLike) -> tuple[np.ndarray, np.ndarray]:
    """(mu, sigma) of a file in float64, if they are finite and of matching shapes."""
    if not pathlib.Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file.")
    try:
        with zipfile.ZipFile(path) as archive:
            members = {name: f"{name}.npy" for name in ("mu", "sigma") if f"{name}.npy" in archive.namelist()}
            arrays = {name: _array(archive, member) for name, member in members.items()}
    except Exception as error:  # zipfile, zlib and NumPy raise many kinds for damaged files
        reason = next(iter(str(error).splitlines()), "")
        raise ValueError(
            f"{path}: damaged, or no .npz of statistics ({type(error).__name__}: {reason:.200})."
        ) from None
    shapes = {name: array.shape for name, array in arrays.items()}
    if set(shapes) != {"mu", "sigma"} or len(shapes["mu"]) != 1 or shapes["sigma"] != 2 * shapes["mu"]:
        raise ValueError(f"{path}: wanted mu [D] and sigma [D, D], got {shapes or 'neither'}.")
    for name, array in arrays.items():
        if array.dtype.kind not in "fiu":
            raise ValueError(f"{path}: {name}: wanted real numbers, got {array.dtype}.")
    mean, covariance = (arrays[name].astype(np.float64) for name in ("mu", "sigma"))
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise ValueError(f"{path}: wanted finite mu and sigma, got NaN or infinity.")
    return mean, covariance


def _array(archive: zipfile.ZipFile, member: str) -> np.ndarray:
    """The array of a .npz's member, if the member has the length that its header claims."""
    size, most = archive.getinfo(member).file_size, 8 * _MOST_FEATURES**2 + 10_000
    if size > most:
        raise ValueError(f"{member}: wanted at most {_MOST_FEATURES} features, {most} bytes, got {size} bytes")
    with archive.open(member) as file:
        stream = io.BytesIO(file.read())  # to the end, where zipfile verifies the checksum
    version = np.lib.format.read_magic(stream)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    shape, _, dtype = readers[version](stream)
    claimed, there = math.prod(shape) * dtype.itemsize, size - stream.tell()
    if claimed != there or min(shape, default=1) < 1:
        raise ValueError(f"{member}: its header claims {shape} of {dtype}, {claimed} bytes, but {there} bytes follow")
    stream.seek(0)
    return np.lib.format.read_array(stream, allow_pickle=False)
