"""Distances between two batches of samples: RMSE and PSNR (Sec. 4)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from bespoke_jax.checks import check_count, check_numeric, check_positive, known
from bespoke_jax.types import Array, ArrayLike, Numbers, Scalar

__all__ = ["psnr", "rmse"]


def rmse(x: Float[Array, "*shape"], y: Float[Array, "*shape"], event_ndim: int) -> Float[jax.Array, "..."]:
    """||x - y|| = sqrt(mean_j (x_j - y_j)^2) of each sample, over the last `event_ndim` axes.

    Args:
        x, y: [*batch, *event]. Integers are refused, because their difference may wrap around.
        event_ndim: the number of axes of one sample.

    Returns:
        The errors, [*batch], in float32 at least.

    Raises:
        TypeError: for arrays that are not floating.
        ValueError: for arrays of different shapes, or an `event_ndim` larger than their number of axes.

    Examples:
        >>> import jax.numpy as jnp
        >>> rmse(jnp.zeros((2, 4)), jnp.full((2, 4), 3.0), event_ndim=1).tolist()
        [3.0, 3.0]
    """
    for name, value in (("x", x), ("y", y)):
        if not hasattr(value, "dtype") or not jnp.issubdtype(value.dtype, jnp.floating):
            got = getattr(value, "dtype", type(value).__name__)
            raise TypeError(f"{name}: wanted a floating array, got {got}.")
    if jnp.shape(x) != jnp.shape(y):
        raise ValueError(f"y: wanted the shape of x, {jnp.shape(x)}, got {jnp.shape(y)}.")
    event_ndim = check_count("event_ndim", event_ndim, 0, x.ndim)
    return jnp.sqrt(mean_square(_widened(x) - _widened(y), event_ndim))


def _widened(x: Float[Array, "*shape"]) -> Any:
    """x in float32 if it is in half precision, whose squares and small differences are soon infinite or 0."""
    return x.astype(jnp.float32) if x.dtype in (jnp.float16, jnp.bfloat16) else x


def mean_square(x: Float[Array, "*shape"], event_ndim: int) -> Float[jax.Array, "..."]:
    """mean_j x_j^2 over the last `event_ndim` axes of x [*batch, *event]: an array [*batch]."""
    return jnp.mean(jnp.square(x), axis=tuple(range(x.ndim - event_ndim, x.ndim)))


def psnr(error: ArrayLike | Numbers, data_range: float = 2.0) -> Float[jax.Array, "..."]:
    """Peak signal-to-noise ratio in dB of an RMSE: 20 log10(data_range / error).

    Args:
        error: RMSEs >= 0, of any shape; 0 gives infinite dB.
        data_range: the largest value of the data minus the smallest; 2.0 for data in [-1, 1].

    Returns:
        An array of error's shape, in float32 at least.

    Raises:
        TypeError: for errors that are no numbers.
        ValueError: for errors that are negative or complex, or a range that is no positive number.

    Examples:
        >>> round(float(psnr(0.02)), 4)
        40.0
    """
    data_range = check_positive("data_range", data_range)
    check_numeric("error", error if hasattr(error, "dtype") else np.asarray(error))
    errors = jnp.asarray(error)
    numbers = known(errors)
    if jnp.iscomplexobj(errors) or (numbers is not None and np.any(numbers < 0)):
        raise ValueError(f"error: wanted numbers >= 0, got {errors}.")
    return _decibels(errors, data_range)


@jax.jit
def _decibels(errors: jax.Array, data_range: Scalar) -> jax.Array:
    return 20 * jnp.log10(data_range / _widened(errors))
