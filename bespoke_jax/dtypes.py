"""Dtypes: one rule, said once."""

import jax
import jax.numpy as jnp

__all__ = ["promote"]


def promote(*dtypes):
    """The narrowest dtype that holds all of these, whatever promotion the caller has set (JAX's may be "strict").

    Examples:
        >>> promote(jnp.bfloat16, jnp.float32)
        dtype('float32')
    """
    with jax.numpy_dtype_promotion("standard"):
        return jnp.result_type(*dtypes)
