"""What a PyTorch model must be, checked before any fit: on its modules, and by two calls with two samples."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax

from bespoke_jax.adapters.torch.model import Call, TorchModel, import_torch
from bespoke_jax.flow.flow import Flow

__all__ = ["check_calls", "check_modules", "device_and_dtype", "modules_of"]


def modules_of(function: Callable) -> list[Any]:
    """The modules that a function is, belongs to, or refers to by name."""
    module = import_torch().nn.Module
    if isinstance(function, functools.partial):
        return [
            found
            for value in (function.func, *function.args, *function.keywords.values())
            for found in modules_of(value)
        ]
    if inspect.ismethod(function):
        named = [function.__self__]
    elif inspect.isfunction(function):
        variables = inspect.getclosurevars(function)
        named = [*variables.nonlocals.values(), *variables.globals.values()]
    else:
        named = [function]
    return [value for value in named if isinstance(value, module)]


def check_modules(modules: list[Any]) -> None:
    """Raise ValueError for a module in training mode, without weights, or with weights that autograd cannot use."""
    for module in modules:
        training = [name or type(module).__name__ for name, part in module.named_modules() if part.training]
        if training:
            raise ValueError(
                f"model: wanted a module in evaluation mode, got one in training mode ({training[0]}); call model.eval() first."
            )
        for name, weight in module.named_parameters():
            if weight.device.type == "meta":
                raise ValueError(f"model: wanted a module with weights, got one whose {name} is on the meta device.")
            if weight.is_inference():
                raise ValueError(
                    f"model: wanted weights that autograd can use, got {name}, which was made under torch.inference_mode; "
                    "make or load the module outside it."
                )


def device_and_dtype(modules: list[Any], device: Any, dtype: Any) -> tuple[Any, Any]:
    """(the device, the dtype or None) of the model's inputs: those that are given, or else those of its weights.

    Raises:
        ValueError: if the weights lie on several devices, or on another one than is given.
        TypeError: if `device` is not a device of PyTorch, or `dtype` not one of its floating dtypes.
    """
    torch = import_torch()
    weights = [weight for module in modules for weight in module.parameters()]
    devices = sorted({str(weight.device) for weight in weights})
    if len(devices) > 1:
        raise ValueError(f"model: wanted weights on one device, got {devices}; call model.to(device).")
    own = torch.device(devices[0] if devices else "cpu")
    try:
        found = own if device is None else torch.device(device)
    except (RuntimeError, TypeError, ValueError) as error:
        raise TypeError(f"device: wanted a device of PyTorch, got {device!r} ({error}).") from None
    if devices and found != own and (found.index is not None or found.type != own.type):
        raise ValueError(f"device: wanted that of the model's weights, {own}, got {found}; call model.to(device).")
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise TypeError(f"dtype: wanted a floating dtype of PyTorch or None, got {dtype!r}.")
    if dtype is None:
        dtype = next((weight.dtype for weight in weights if weight.is_floating_point()), None)
    return (own if devices else found), dtype


def check_calls(flow: Flow, model: TorchModel) -> None:
    """Call the model on two samples at two times, and look for derivatives that are missing.

    Raises:
        TypeError: if it returns something other than one floating tensor.
        ValueError: if that has another shape than x; if the model depends on t or x, but PyTorch finds no derivative. Errors of
            the model pass unchanged, with a note of what it was called with.
    """
    x0 = flow.noise(jax.random.key(0), (2,))
    model.memory.recorded = []
    try:
        for t in (0.3, 0.6):
            flow(t, x0)
        one, other = model.memory.recorded
    finally:
        model.memory.recorded = None
    _check_derivative(model, one, 0, other.inputs[0], "t")
    _check_derivative(model, one, 1, one.inputs[1].flip(0), "x")
    model.memory.last = None


def _check_derivative(model: TorchModel, call: Call, place: int, moved: Any, name: str) -> None:
    torch = import_torch()
    inputs = list(call.inputs)
    inputs[place] = moved
    there = model.linearised_at(inputs).out.detach()
    here = model.linearised_at(call.inputs)
    if torch.equal(there, here.out.detach()):
        return
    grad = None
    if here.out.requires_grad:
        generator = torch.Generator().manual_seed(0)
        along = torch.randn(here.out.shape, generator=generator).to(here.out)
        (grad,) = torch.autograd.grad(here.out, here.inputs[place], along, retain_graph=True, allow_unused=True)
    if grad is None or not grad.any():
        raise ValueError(
            f"model: wanted a function that PyTorch can differentiate in {name}, got one that depends on {name} and has no "
            f"derivative. Does it run under torch.no_grad or torch.inference_mode, detach {name}, round it to an integer, or "
            "leave PyTorch for NumPy?"
        )
