"""PyTorch models as flows, without porting them: velocities by calling the model, pullbacks by PyTorch's autograd."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from bespoke_jax.adapters.torch.model import TorchModel, import_torch
from bespoke_jax.adapters.torch.primitive import bind
from bespoke_jax.adapters.torch.probe import check_calls, check_modules, device_and_dtype, modules_of
from bespoke_jax.checks import check_flag, check_shape
from bespoke_jax.flow.conditions import CONDITION
from bespoke_jax.flow.flow import Flow
from bespoke_jax.schedulers import Scheduler
from bespoke_jax.types import Array, PyTree, Scalar

__all__ = ["TorchVelocity", "flow"]


def flow(
    model: Callable,
    event_shape: Sequence[int],
    scheduler: Scheduler | None = None,
    prediction: str = "velocity",
    *,
    condition: PyTree = None,
    per_sample_time: bool = True,
    device: Any = None,
    dtype: Any = None,
    **options: Any,
) -> Flow:
    """The flow of a PyTorch model.

    The model is called with tensors and returns a tensor like x. Its weights stay PyTorch's: they are no parameters of the flow,
    and a change of them changes the flow. Any function of the library takes the flow; a fit never trains the model.

    Args:
        model: `model(t, x)`, or `model(t, x, condition)` with a condition: a `torch.nn.Module` in evaluation mode, or a function
            around one. x is [N, *event_shape]; t is [N], 0 at noise. The samples of a batch must not affect each other.
        event_shape: shape of one sample as PyTorch has it, e.g. (3, 32, 32). Nothing is transposed.
        scheduler: as for `Flow`; required by another prediction than "velocity".
        prediction: what the model predicts, as for `Flow.from_prediction`.
        condition: the condition of one sample, an array or a tree of arrays, for `given` and `guided`. The model gets it with an
            axis [N] in front; integers as int64, floats in the dtype of x.
        per_sample_time: False for a model of a scalar t, which `torch.func.vmap` then calls for each sample. Not every operation
            of PyTorch can be mapped.
        device: where the model's inputs go; None for the device of its weights.
        dtype: of the model's inputs x; None for that of its weights. t is at least float32. The output is cast to the states'.
        options: further options of `Flow.from_prediction`, such as `time`, `source`, `weights` and `time_margin`.

    Raises:
        ImportError: if PyTorch is missing.
        TypeError, ValueError: for arguments of the wrong kind; for a module in training mode, on several devices, or made under
            `torch.inference_mode`; if the model, which is called on two samples at two times, returns something other than one
            floating tensor of x's shape, or PyTorch finds no derivative in t or x.

    Examples:
        >>> import torch, bespoke_jax as bj  # doctest: +SKIP
        >>> found = flow(lambda t, x: -x * t[:, None], event_shape=(2,))  # doctest: +SKIP
        >>> found(0.5, jnp.ones((3, 2))).tolist()  # doctest: +SKIP
        [[-0.5, -0.5], [-0.5, -0.5], [-0.5, -0.5]]
    """
    import_torch()
    if not callable(model):
        raise TypeError(f"model: wanted a torch.nn.Module or a function of (t, x), got {type(model).__name__}.")
    event_shape = check_shape("event_shape", event_shape)
    modules = modules_of(model)
    check_modules(modules)
    params, structure = _params_of(condition)
    per_sample_time = check_flag("per_sample_time", per_sample_time)
    called = TorchModel(model, structure, per_sample_time, *device_and_dtype(modules, device, dtype))
    velocity = TorchVelocity(called)
    if scheduler is None and prediction == "velocity" and "time" not in options:
        found = Flow(velocity, params, event_shape, None, **options)
    else:
        wanted: Any = scheduler  # from_prediction refuses None
        found = Flow.from_prediction(velocity, params, event_shape, wanted, prediction, **options)
    check_calls(found, called)
    return found


def _params_of(condition: PyTree) -> tuple[Any, Any]:
    """(the flow's parameters, the structure of its condition), both None without a condition."""
    if condition is None:
        return None, None
    params = {CONDITION: jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), condition)}
    return params, jax.tree.structure(params[CONDITION])


@dataclasses.dataclass(frozen=True)
class TorchVelocity:
    """`velocity(params, t, x)` of a PyTorch model. Frozen: equal by value."""

    model: TorchModel

    outside_jax = True

    def __call__(self, params: Any, t: Scalar, x: Float[Array, "B *event"]) -> Float[jax.Array, "B *event"]:
        if jnp.ndim(t):
            raise ValueError(f"t: wanted a scalar, got shape {jnp.shape(t)}.")
        leaves = () if params is None else jax.tree.leaves(params[CONDITION])
        (u,) = bind("velocity", self.model, *map(jnp.asarray, (t, x, *leaves)))
        return u
