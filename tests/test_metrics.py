"""How far two batches are apart."""

import jax.numpy as jnp
import numpy as np
import pytest

from bespoke_jax.metrics import mean_square, psnr, rmse
from tests import reference

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize("event_ndim", [0, 1, 3])
def test_rmse_against_loops(event_ndim):
    x, y = np.random.default_rng(0).standard_normal((2, 4, 2, 3))
    found = rmse(jnp.asarray(x), jnp.asarray(y), event_ndim)
    batch = x.shape[: 3 - event_ndim]
    assert found.shape == batch
    for index in np.ndindex(*batch):
        np.testing.assert_allclose(found[index], reference.rms(x[index] - y[index]), rtol=1e-13)


def test_mean_square_is_a_mean_over_the_event_only():
    x = np.random.default_rng(0).standard_normal((2, 3, 4))
    np.testing.assert_allclose(mean_square(jnp.asarray(x), 2), [np.mean(x[0] ** 2), np.mean(x[1] ** 2)], rtol=1e-13)


def test_psnr_by_hand():
    np.testing.assert_allclose(psnr(jnp.asarray([2.0, 0.2, 0.02])), [0.0, 20.0, 40.0], atol=1e-12)
    np.testing.assert_allclose(psnr(0.1, data_range=1.0), 20.0, rtol=1e-12)


def test_halving_the_error_is_6_db():
    np.testing.assert_allclose(psnr(0.05) - psnr(0.1), 20 * np.log10(2), rtol=1e-12)


def test_rmse_of_two_shapes():
    with pytest.raises(ValueError, match=r"y: wanted the shape of x, \(2, 3\), got \(3,\)"):
        rmse(jnp.zeros((2, 3)), jnp.zeros(3), 1)


@pytest.mark.parametrize("data_range", [0.0, -1.0, float("nan"), float("inf"), "2", None])
def test_psnr_of_no_range(data_range):
    with pytest.raises(ValueError, match="data_range: wanted a finite number > 0, got"):
        psnr(0.1, data_range)


def test_rmse_of_integers_would_wrap_around():
    x, y = np.array([0, 255], np.uint8), np.array([255, 0], np.uint8)
    with pytest.raises(TypeError, match="x: wanted a floating array, got uint8"):
        rmse(x, y, 1)
    assert float(rmse(x.astype(np.float32), y.astype(np.float32), 1)) == 255
    with pytest.raises(TypeError, match="y: wanted a floating array, got list"):
        rmse(np.ones(2), [1.0, 1.0], 1)
    with pytest.raises(TypeError, match="x: wanted a floating array, got complex128"):
        rmse(np.ones(2) * 1j, np.ones(2), 1)


@pytest.mark.parametrize("event_ndim", [-1, 3, 1.0, True, None])
def test_axes_that_are_not_there(event_ndim):
    with pytest.raises(ValueError, match="event_ndim: wanted an integer from 0 to 2, got"):
        rmse(jnp.zeros((2, 3)), jnp.zeros((2, 3)), event_ndim)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize("apart", [1e-4, 300.0, 60000.0])
def test_half_precision_neither_overflows_nor_vanishes(dtype, apart):
    x, zero = jnp.full((2, 4), apart, dtype), jnp.zeros((2, 4), dtype)
    found = rmse(x, zero, 1)
    assert found.dtype == psnr(x).dtype == jnp.float32
    np.testing.assert_allclose(found, apart, rtol=5e-3)
    np.testing.assert_allclose(psnr(x), 20 * np.log10(2 / apart), atol=0.05)
    np.testing.assert_allclose(rmse(x, -x, 1), 2 * apart, rtol=5e-3)


def test_psnr_of_no_error():
    assert float(psnr(0.0)) == np.inf and np.isnan(psnr(np.nan))
    for error in (-0.1, 0.1j):
        with pytest.raises(ValueError, match="error: wanted numbers >= 0, got"):
            psnr(jnp.asarray([0.1, error]))
