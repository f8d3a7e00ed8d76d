"""How far two batches of samples are apart: RMSE, PSNR (Sec. 4)."""

import jax.numpy as jnp

__all__ = ["psnr", "rmse"]


def rmse(x, y, event_ndim: int):
    """||x - y|| = sqrt(mean_j (x_j - y_j)^2) of each sample, over the last `event_ndim` axes.

    Examples:
        >>> import jax.numpy as jnp
        >>> rmse(jnp.zeros((2, 4)), jnp.full((2, 4), 3.0), event_ndim=1).tolist()
        [3.0, 3.0]
    """
    if jnp.shape(x) != jnp.shape(y):
        raise ValueError(f"rmse: wanted two arrays of one shape, got {jnp.shape(x)} and {jnp.shape(y)}.")
    return jnp.sqrt(mean_square(x - y, event_ndim))


def mean_square(x, event_ndim: int):
    """mean_j x_j^2 over the last `event_ndim` axes."""
    return jnp.mean(jnp.square(x), axis=tuple(range(x.ndim - event_ndim, x.ndim)))


def psnr(error, data_range: float = 2.0):
    """Peak signal-to-noise ratio in dB of an RMSE: 20 log10(data_range / error); 2.0 for data in [-1, 1].

    Examples:
        >>> round(float(psnr(0.02)), 4)
        40.0
    """
    if not data_range > 0:
        raise ValueError(f"psnr: data_range must be > 0, got {data_range}.")
    return 20 * jnp.log10(data_range / jnp.asarray(error))
