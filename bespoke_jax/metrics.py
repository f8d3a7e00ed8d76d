"""How far two batches of samples are apart: RMSE, PSNR (Sec. 4)."""

import jax.numpy as jnp
import numpy as np

from bespoke_jax.checks import check_count, check_numeric, check_positive, known

__all__ = ["psnr", "rmse"]


def rmse(x, y, event_ndim: int):
    """||x - y|| = sqrt(mean_j (x_j - y_j)^2) of each sample, over the last `event_ndim` axes.

    Args:
        x, y: [*batch, *event], floating; of integers the difference may wrap around.
        event_ndim: how many axes one sample has.

    Raises:
        TypeError: for arrays that are not floating.
        ValueError: for two shapes, or more axes than there are.

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
        raise ValueError(f"rmse: wanted two arrays of one shape, got {jnp.shape(x)} and {jnp.shape(y)}.")
    return jnp.sqrt(mean_square(x - y, check_count("event_ndim", event_ndim, 0, x.ndim)))


def mean_square(x, event_ndim: int):
    """mean_j x_j^2 over the last `event_ndim` axes."""
    return jnp.mean(jnp.square(x), axis=tuple(range(x.ndim - event_ndim, x.ndim)))


def psnr(error, data_range: float = 2.0):
    """Peak signal-to-noise ratio in dB of an RMSE: 20 log10(data_range / error); 2.0 for data in [-1, 1].

    Args:
        error: >= 0, of any shape; infinite dB for 0.
        data_range: the largest value less the smallest, of the data.

    Raises:
        ValueError: for errors below 0 or no real numbers, or a range that is no positive number.

    Examples:
        >>> round(float(psnr(0.02)), 4)
        40.0
    """
    data_range, error = (
        check_positive("data_range", data_range),
        error if hasattr(error, "dtype") else np.asarray(error),
    )
    check_numeric("error", error)
    error = jnp.asarray(error)
    if jnp.iscomplexobj(error) or (known(error) is not None and np.any(known(error) < 0)):
        raise ValueError(f"error: wanted numbers >= 0, got {error}.")
    return 20 * jnp.log10(data_range / error)
