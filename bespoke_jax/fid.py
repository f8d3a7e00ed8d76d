"""Frechet distance of two sets of samples, by mean and covariance of their features (Heusel et al. 2017, arXiv:1706.08500).

With the features of `models.inception` it is the FID. Statistics are gathered in batches, in float64 on the host, and those of
several processes merge into one.
"""

import io
import math
import pathlib
import warnings
import zipfile
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from bespoke_jax.checks import check_array, check_count, check_type

__all__ = ["FeatureStatistics", "TooFewSamplesWarning", "frechet_distance", "load_statistics", "statistics_of"]

_MANY = 10**9  # files of statistics do not say of how many samples
_MOST_FEATURES = 8192  # that a file may have: a covariance of 512 MiB; InceptionV3 has 2048
_ASYMMETRY = 1e-4  # of a covariance that was added up in float32, as a share of its largest number
_NEGATIVE = 1e-3  # eigenvalue of one, as a share of the largest


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
        dimension = check_count("dimension", dimension)
        return cls(0, np.zeros(dimension), np.zeros((dimension, dimension)))

    @classmethod
    def of(cls, features) -> "FeatureStatistics":
        """Of one batch, [N, D].

        Raises:
            TypeError: for features that are no real numbers.
            ValueError: for another number of axes, and for features that are not finite.
        """
        features = np.asarray(features)
        if not any(jnp.issubdtype(features.dtype, kind) for kind in (jnp.floating, jnp.integer)):
            raise TypeError(f"FeatureStatistics: wanted features that are real numbers, got dtype {features.dtype}.")
        features = features.astype(np.float64)
        if features.ndim != 2 or not features.shape[1]:
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
            TypeError: if `other` is no statistics.
            ValueError: if the features have other dimensions.
        """
        check_type("other", other, FeatureStatistics, "FeatureStatistics")
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
        TypeError: if either side is no statistics, or not of real numbers.
        ValueError: if the features have other dimensions, or either side has fewer than two samples, or arrays that disagree or
            are not finite.

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

    Nothing is read that the file cannot hold: sizes are compared before arrays are made, and no pickle is run.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged or no .npz, lacks one of the two, or they are of other shapes, not real or not finite, or
            `sigma` is no covariance: not symmetric, or with negative eigenvalues.

    Examples:
        >>> load_statistics("nowhere.npz")
        Traceback (most recent call last):
        FileNotFoundError: nowhere.npz: no such file.
    """
    if not pathlib.Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file.")
    try:
        with zipfile.ZipFile(path) as archive:
            members = {name: f"{name}.npy" for name in ("mu", "sigma") if f"{name}.npy" in archive.namelist()}
            arrays = {name: _array(archive, member) for name, member in members.items()}
    except Exception as error:  # zipfile, zlib and NumPy have many for damage
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
        raise ValueError(f"{path}: mu or sigma is not finite.")
    apart, largest = np.abs(covariance - covariance.T).max(), np.abs(covariance).max()
    if apart > _ASYMMETRY * largest:
        raise ValueError(f"{path}: sigma: wanted a symmetric matrix, got one that is {apart:.3g} from it.")
    covariance = (covariance + covariance.T) / 2
    eigenvalues = np.linalg.eigvalsh(covariance)
    if eigenvalues[0] < -_NEGATIVE * eigenvalues[-1]:
        raise ValueError(
            f"{path}: sigma: wanted no negative eigenvalues, got {eigenvalues[0]:.3g}; no covariance has such."
        )
    return FeatureStatistics(_MANY, mean, covariance * (_MANY - 1))


def _array(archive: zipfile.ZipFile, member: str) -> np.ndarray:
    """A member of a .npz, if it has the length that its header claims."""
    size, most = archive.getinfo(member).file_size, 8 * _MOST_FEATURES**2 + 10_000
    if size > most:
        raise ValueError(f"{member}: wanted at most {_MOST_FEATURES} features, {most} bytes, got {size} bytes")
    with archive.open(member) as file:
        stream = io.BytesIO(file.read())  # to its end, where the checksum is looked at
    version = np.lib.format.read_magic(stream)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    shape, _, dtype = readers[version](stream)
    claimed, there = math.prod(shape) * dtype.itemsize, size - stream.tell()
    if claimed != there or min(shape, default=1) < 1:
        raise ValueError(f"{member}: its header claims {shape} of {dtype}, {claimed} bytes, but it has {there}")
    stream.seek(0)
    return np.lib.format.read_array(stream, allow_pickle=False)
