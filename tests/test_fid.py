"""The Frechet distance of Gaussians in closed form, and statistics that do not depend on how they were gathered."""

import functools
import itertools
import zipfile

import numpy as np
import pytest

from bespoke_jax.fid import (
    FeatureStatistics,
    TooFewSamplesWarning,
    frechet_distance,
    load_statistics,
    statistics_of,
)


def gaussian(mean, covariance, count=1000):
    mean, covariance = np.asarray(mean, float), np.asarray(covariance, float)
    return FeatureStatistics(count, mean, covariance * (count - 1))


def rotation(dimension, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((dimension, dimension)))[0]


def features(count, dimension, seed=0):
    random = np.random.default_rng(seed)
    return 5 + random.standard_normal((count, dimension)) @ random.standard_normal((dimension, dimension))


class TestDistance:
    def test_in_one_dimension(self):
        # (difference of means)^2 + (difference of standard deviations)^2
        assert frechet_distance(gaussian([1.0], [[4.0]]), gaussian([-2.0], [[0.25]])) == pytest.approx(9 + 1.5**2)

    def test_covariances_with_common_axes(self):
        axes, a, b = rotation(5), np.arange(1.0, 6), np.array([9.0, 4, 1, 0.25, 0])
        found = frechet_distance(gaussian(np.zeros(5), (axes * a) @ axes.T), gaussian(np.ones(5), (axes * b) @ axes.T))
        assert found == pytest.approx(5 + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum())

    def test_two_by_two_without_common_axes(self):
        # tr (AB)^1/2 of a 2 x 2 matrix is sqrt(tr AB + 2 sqrt(det AB)).
        a, b = np.array([[2.0, 0.9], [0.9, 1.0]]), np.array([[1.0, -0.5], [-0.5, 3.0]])
        root = np.sqrt(np.trace(a @ b) + 2 * np.sqrt(np.linalg.det(a @ b)))
        found = frechet_distance(gaussian([0, 0], a), gaussian([0, 0], b))
        assert found == pytest.approx(np.trace(a + b) - 2 * root)

    def test_a_push_forward_by_a_positive_map(self):
        # x -> M x with M positive is the optimal transport from N(0, A) to N(0, M A M): its cost is E |x - M x|^2.
        a = np.cov(features(50, 6).T)
        m = rotation(6, 1) @ np.diag(np.linspace(0.2, 3, 6)) @ rotation(6, 1).T
        cost = np.trace((np.eye(6) - m) @ a @ (np.eye(6) - m))
        assert frechet_distance(gaussian(np.zeros(6), a), gaussian(np.zeros(6), m @ a @ m)) == pytest.approx(cost)

    def test_singular_covariances(self):
        # Rank 1 along u and along v: tr (AB)^1/2 = |u . v|.
        u, v = np.random.default_rng(0).standard_normal((2, 40))
        wanted = u @ u + v @ v - 2 * abs(u @ v)
        a, b = gaussian(np.zeros(40), np.outer(u, u)), gaussian(np.zeros(40), np.outer(v, v))
        assert frechet_distance(a, b) == pytest.approx(wanted)
        assert 0 <= frechet_distance(a, a) < 1e-5 * (u @ u)
        assert frechet_distance(a, gaussian(np.zeros(40), np.zeros((40, 40)))) == pytest.approx(u @ u)

    def test_symmetric_and_zero_on_itself(self):
        a, b = (FeatureStatistics.of(features(200, 7, seed)) for seed in (0, 1))
        assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-10)
        assert 0 <= frechet_distance(a, a) < 1e-8

    def test_turning_both_changes_nothing_and_scale_is_squared(self):
        x, y, turn = features(100, 5, 0), features(100, 5, 1), rotation(5)
        distance = frechet_distance(*map(FeatureStatistics.of, (x, y)))
        assert frechet_distance(*map(FeatureStatistics.of, (x @ turn, y @ turn))) == pytest.approx(distance)
        assert frechet_distance(*map(FeatureStatistics.of, (3 * x, 3 * y))) == pytest.approx(9 * distance)

    @pytest.mark.parametrize("few", ["a", "b"])
    def test_too_few_samples(self, few):
        sides = dict(a=FeatureStatistics.of(features(50, 8)), b=FeatureStatistics.of(features(50, 8)))
        sides[few] = FeatureStatistics.of(features(8, 8))
        with pytest.warns(
            TooFewSamplesWarning, match=f"{few}: wanted many times more samples .* got 8 samples of 8 features"
        ):
            frechet_distance(**sides)

    def test_features_of_two_functions(self):
        a, b = FeatureStatistics.of(features(50, 3)), FeatureStatistics.of(features(50, 4))
        with pytest.raises(ValueError, match="b: wanted features of 3 dimensions, as a has, got 4"):
            frechet_distance(a, b)
        with pytest.raises(ValueError, match="other: wanted features of 3 dimensions, got features of 4"):
            a.merge(b)


class TestStatistics:
    def test_those_of_numpy(self):
        x = features(100, 6)
        found = FeatureStatistics.of(x)
        np.testing.assert_allclose(found.mean, x.mean(0), rtol=1e-13)
        np.testing.assert_allclose(found.covariance, np.cov(x.T), rtol=1e-12)

    def test_any_parts_in_any_order(self):
        x = features(60, 4)
        parts = [
            FeatureStatistics.of(part) for part in np.split(x, [1, 20, 20, 33])
        ]  # one sample, and none, among them
        for order in itertools.permutations(parts):
            merged = functools.reduce(FeatureStatistics.merge, order)
            assert merged.count == 60
            np.testing.assert_allclose(merged.mean, x.mean(0), rtol=1e-13)
            np.testing.assert_allclose(merged.covariance, np.cov(x.T), rtol=1e-12)

    def test_a_tree_of_processes(self):
        parts = [FeatureStatistics.of(part) for part in np.split(features(80, 3), 4)]
        line = functools.reduce(FeatureStatistics.merge, parts)
        tree = parts[0].merge(parts[1]).merge(parts[2].merge(parts[3]))
        np.testing.assert_allclose(tree.scatter, line.scatter, rtol=1e-12)

    def test_a_large_mean_costs_no_digits(self):
        x = features(500, 3)
        shifted = statistics_of(np.split(x + 1e7, 10), lambda x: x)
        np.testing.assert_allclose(shifted.covariance, np.cov(x.T), rtol=1e-6)

    def test_float32_features_are_added_in_float64(self):
        found = FeatureStatistics.of(features(10, 3).astype(np.float32))
        assert found.mean.dtype == found.scatter.dtype == np.float64

    def test_empty_is_neutral(self):
        a, none = FeatureStatistics.of(features(9, 2)), FeatureStatistics.empty(2)
        for merged in (a.merge(none), none.merge(a)):
            assert merged.count == 9
            np.testing.assert_array_equal(merged.scatter, a.scatter)
        assert none.merge(none).count == 0

    def test_refusals(self):
        with pytest.raises(ValueError, match=r"features: wanted shape \[N, D\], got \(2, 3, 4\)"):
            FeatureStatistics.of(np.zeros((2, 3, 4)))
        with pytest.raises(ValueError, match="features: wanted finite numbers, got NaN or infinity in 1 of 2 samples"):
            FeatureStatistics.of([[0.0, 1.0], [np.nan, np.inf]])
        with pytest.raises(TypeError, match="features: wanted real numbers, got dtype complex128"):
            FeatureStatistics.of(np.ones((3, 2)) * 1j)
        with pytest.raises(TypeError, match="features: wanted real numbers, got dtype <U1"):
            FeatureStatistics.of([["1", "2"]])
        with pytest.raises(ValueError, match="dimension: wanted an integer >= 1, got 0"):
            FeatureStatistics.empty(0)
        with pytest.raises(TypeError, match="other: wanted FeatureStatistics, got float"):
            FeatureStatistics.empty(2).merge(1.0)
        good = FeatureStatistics.of(features(9, 2))
        with pytest.raises(TypeError, match="b: wanted FeatureStatistics, got ndarray"):
            frechet_distance(good, np.zeros((9, 2)))
        with pytest.raises(ValueError, match=r"a\.scatter: wanted shape \[2, 2\], got \[2\]"):
            frechet_distance(good._replace(scatter=np.ones(2)), good)
        with pytest.raises(ValueError, match=r"b\.mean: wanted finite numbers"):
            frechet_distance(good, good._replace(mean=np.full(2, np.nan)))
        with pytest.raises(ValueError, match="wanted 2 samples or more, got 1"):
            _ = FeatureStatistics.of(np.zeros((1, 2))).covariance
        with pytest.raises(ValueError, match="batches: wanted one or more, got none"):
            statistics_of([], lambda x: x)


class TestFiles:
    def test_a_reference_of_edm(self, tmp_path):
        x = features(100, 4)
        np.savez(tmp_path / "ref.npz", mu=x.mean(0), sigma=np.cov(x.T))
        reference = load_statistics(tmp_path / "ref.npz")
        np.testing.assert_allclose(reference.covariance, np.cov(x.T), rtol=1e-12)
        assert frechet_distance(reference, FeatureStatistics.of(x + 1)) == pytest.approx(4, abs=1e-6)

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            (dict(mu=np.zeros(3)), r"wanted mu \[D\] and sigma \[D, D\], got \{'mu': \(3,\)\}"),
            (dict(mu=np.zeros(3), sigma=np.zeros((2, 2))), r"'sigma': \(2, 2\)"),
            (dict(mean=np.zeros(3)), "got neither"),
            (dict(mu=np.full(2, np.nan), sigma=np.zeros((2, 2))), "wanted finite mu and sigma"),
            (dict(mu=np.array([{}]), sigma=np.zeros((1, 1))), r"no \.npz of statistics"),  # a pickle: not run
            (dict(mu=np.zeros(2), sigma=np.eye(2) * (1 + 5j)), "sigma: wanted real numbers, got complex128"),
            (dict(mu=np.zeros(2), sigma=np.eye(2) > 0), "sigma: wanted real numbers, got bool"),
            (dict(mu=np.array(["1", "2"]), sigma=np.eye(2)), "mu: wanted real numbers, got <U1"),
            (
                dict(mu=np.zeros(2), sigma=-np.eye(2)),
                "sigma: wanted a covariance, .* got the eigenvalue -1",
            ),
            (dict(mu=np.zeros(2), sigma=np.diag([1.0, -0.5])), r"no negative eigenvalues, got the eigenvalue -0\.5"),
            (
                dict(mu=np.zeros(2), sigma=[[1.0, 5.0], [0.0, 1.0]]),
                "sigma: wanted a symmetric matrix, got one whose asymmetry is 5",
            ),
            (dict(mu=np.zeros(0), sigma=np.zeros((0, 0))), r"no \.npz of statistics"),
            (dict(mu=np.zeros(()), sigma=np.zeros(())), r"wanted mu \[D\]"),
        ],
    )
    def test_other_files(self, tmp_path, arrays, message):
        np.savez(tmp_path / "ref.npz", **arrays)
        with pytest.raises(ValueError, match=message):
            load_statistics(tmp_path / "ref.npz")

    def test_no_file_and_no_npz(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="no such file"):
            load_statistics(tmp_path / "none.npz")
        (tmp_path / "text.npz").write_text("text")
        with pytest.raises(ValueError, match=r"no \.npz of statistics"):
            load_statistics(tmp_path / "text.npz")

    def test_a_covariance_of_float32_sums(self, tmp_path):
        # Rounding leaves it a little asymmetric, and with eigenvalues a little below 0.
        x = features(5, 8).astype(np.float32)
        sigma = np.cov(x.T) + 1e-6 * np.triu(np.ones((8, 8)))
        np.savez_compressed(tmp_path / "ref.npz", mu=x.mean(0), sigma=sigma.astype(np.float32))
        found = load_statistics(tmp_path / "ref.npz")
        np.testing.assert_allclose(found.covariance, np.cov(x.T), rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(found.covariance, found.covariance.T)
        assert found.mean.dtype == np.float64

    def test_damage_anywhere_is_told_in_one_line(self, tmp_path):
        path, random = tmp_path / "ref.npz", np.random.default_rng(1)
        x = features(40, 30)
        np.savez_compressed(path, mu=x.mean(0), sigma=np.cov(x.T))
        whole, wanted = path.read_bytes(), load_statistics(path)
        for place in random.integers(0, len(whole), 150):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x5A]) + whole[place + 1 :])
            try:
                found = load_statistics(path)
            except ValueError as error:
                assert str(error).startswith(str(path)) and "\n" not in str(error)
            else:  # a date, or another byte that says nothing
                np.testing.assert_array_equal(found.scatter, wanted.scatter)
        for length in (0, 1, 100, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:length])
            with pytest.raises(ValueError, match=r"damaged, or no \.npz of statistics"):
                load_statistics(path)

    def test_a_header_that_claims_more_than_there_is(self, tmp_path):
        header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (100000000000,), }"
        npy = b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + header.ljust(117) + b"\n"
        with zipfile.ZipFile(tmp_path / "ref.npz", "w") as archive:
            archive.writestr("mu.npy", npy)
            archive.writestr("sigma.npy", npy)
        with pytest.raises(
            ValueError, match=r"mu\.npy: its header claims \(100000000000,\) of float64, 800000000000 bytes, but"
        ):
            load_statistics(tmp_path / "ref.npz")

    def test_a_member_larger_than_any_covariance(self, tmp_path, monkeypatch):
        np.savez_compressed(tmp_path / "ref.npz", mu=np.zeros(60), sigma=np.zeros((60, 60)))
        monkeypatch.setattr("bespoke_jax.fid._MOST_FEATURES", 30)
        with pytest.raises(ValueError, match=r"sigma\.npy: wanted at most 30 features, 17200 bytes, got 28928 bytes"):
            load_statistics(tmp_path / "ref.npz")
