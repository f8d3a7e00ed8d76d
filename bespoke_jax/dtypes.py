"""Dtypes: the one rule by which they are promoted."""

import jax
import jax.numpy as jnp
import numpy as np

from bespoke_jax.types import DTypeLike

__all__ = ["promote"]


def promote(*dtypes: DTypeLike) -> np.dtype:
    """The narrowest dtype that holds all of these, even where the caller has set JAX's promotion to "strict".

    Examples:
        >>> promote(jnp.bfloat16, jnp.float32)
        dtype('float32')
    """
    with jax.numpy_dtype_promotion("standard"):
        return jnp.result_type(*dtypes)
