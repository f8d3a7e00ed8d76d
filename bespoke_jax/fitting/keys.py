"""The random keys of a fit: one for each purpose and update, so that a fit that is resumed draws what it would have drawn.

They are `fold_in(key, purpose)`, then `fold_in(., number)`, and keys are never split.
"""

import jax

from bespoke_jax.types import KeyArray

__all__ = ["BATCHES", "CONDITIONS", "PATHS", "PROBES", "VALIDATION", "fold_in"]

PATHS, VALIDATION = 0, 1  # noises of the paths to fit to and of those to hold out
BATCHES, PROBES = 2, 3  # of an update
CONDITIONS = 4  # which condition each noise gets


@jax.jit
def fold_in(key: KeyArray, number: int) -> KeyArray:
    """`jax.random.fold_in` as one compiled program; outside `jit` it is two.

    Examples:
        >>> bool(fold_in(jax.random.key(0), 3) == jax.random.fold_in(jax.random.key(0), 3))
        True
    """
    return jax.random.fold_in(key, number)
