"""The losses of a solver against true paths, as functions and as values.

Functions have one signature, `loss(flow, solver, paths, ...) -> scalar`. `rmse_bound` (26) and `local` look at each step on its
own, from a point of the true path; `rmse` (6), `sqrt_rmse` and `endpoint` run the solver and look at where it ends.

Values are what a `Stage` holds: `RmseBound`, `Local`, `Rmse`, `SqrtRmse`, `Endpoint`, or a `Distance` of your own. Each is one
of the functions with its options, taken apart for second-order fitting: every loss is E sum_i phi(mean_j e_ij^2) for error
vectors e_i and phi a root or the logarithm. A new loss is a `Distance` or a `Loss` of its own, and a row in `LOSSES`.
"""

from collections.abc import Callable
from typing import Any

from bespoke_jax.fitting.loss import Loss
from bespoke_jax.fitting.losses_of_ends import Distance, Endpoint, Rmse, SqrtRmse, endpoint, rmse, sqrt_rmse
from bespoke_jax.fitting.losses_of_steps import (
    Local,
    RmseBound,
    auxiliary_path,
    bound_weights,
    local,
    rmse_bound,
    step_error,
    step_errors,
)

__all__ = [
    "LOSSES",
    "Distance",
    "Endpoint",
    "Local",
    "Loss",
    "Rmse",
    "RmseBound",
    "SqrtRmse",
    "auxiliary_path",
    "bound_weights",
    "endpoint",
    "local",
    "named",
    "rmse",
    "rmse_bound",
    "sqrt_rmse",
    "step_error",
    "step_errors",
]

LOSSES: dict[str, Callable[..., Loss]] = {
    "rmse_bound": RmseBound,
    "local": Local,
    "rmse": Rmse,
    "sqrt_rmse": SqrtRmse,
    "endpoint": Endpoint,
}
"""The losses by the names that configs use; `named` makes one."""


def named(loss: Any, name: str = "loss") -> Any:
    """A loss by its name; what is not a string is a loss already.

    Args:
        loss: a name in `LOSSES`, a `Loss`, or any function `loss(flow, solver, paths) -> scalar`.
        name: what errors call it.

    Raises:
        ValueError: for anything else.

    Examples:
        >>> named("rmse_bound")
        RmseBound(lipschitz=1.0)
    """
    if callable(loss):
        return loss
    if not isinstance(loss, str) or loss not in LOSSES:
        raise ValueError(f"{name}: wanted one of {sorted(LOSSES)} or a function, got {loss!r}.")
    return LOSSES[loss]()
