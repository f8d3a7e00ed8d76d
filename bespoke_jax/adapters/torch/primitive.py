"""A PyTorch model as a primitive of JAX, with the derivatives that PyTorch's autograd gives.

The kinds of the primitive are methods of `TorchModel`. The arguments of all begin with the point (t, *lead; x, *lead B *event;
the leaves of the condition), to which

- "velocity" and "linearised" give u of x's shape; the latter is called where a derivative may follow;
- "pull" adds a cotangent of u, and gives those of t, x and the floating leaves;
- "push" adds tangents of t, x and the floating leaves, and gives that of u.

Outside compiled programs PyTorch is called directly, with arrays of JAX. In them JAX calls back.
"""

import functools
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

__all__ = ["bind", "differentiable"]

_torch = Primitive("torch_model")
_torch.multiple_results = True


def bind(kind: str, model: Any, *args: Any) -> list[jax.Array]:
    """The results of one kind of call, see the head of the module.

    Args:
        kind: "velocity", "linearised", "pull" or "push".
        model: a `TorchModel`.
        args: the point, and what the kind adds.
    """
    return _torch.bind(*args, kind=kind, model=model)


def differentiable(args: Any) -> list[int]:
    """The places of the floating arrays among some arguments."""
    return [place for place, value in enumerate(args) if jnp.issubdtype(jnp.result_type(value), jnp.floating)]


def _call(*args: Any, kind: str, model: Any) -> list[Any]:
    return getattr(model, kind)(*args)


_torch.def_impl(_call)


@_torch.def_abstract_eval
def _shapes(*args: Any, kind: str, model: Any) -> list[Any]:
    point = args[: model.num_inputs]
    if kind == "pull":
        return [_like(point[place]) for place in differentiable(point)]
    return [_like(point[1])]


def _like(value: Any) -> Any:
    return jax.core.ShapedArray(value.shape, value.dtype)


def _called_back(*args: Any, kind: str, model: Any) -> Any:
    """The call in a compiled program."""
    shapes = [jax.ShapeDtypeStruct(out.shape, out.dtype) for out in _shapes(*args, kind=kind, model=model)]
    return jax.pure_callback(functools.partial(_call_numpy, kind=kind, model=model), shapes, *args)


def _call_numpy(*args: Any, kind: str, model: Any) -> list[np.ndarray]:
    """The call with arrays of NumPy: work for JAX would wait for the program that waits for this call.

    A program may leave out the call that was to be linearised, so no earlier graph serves a pullback.
    """
    model.forget()
    return _call(*map(np.asarray, args), kind=kind, model=model)


def _lowered(context: Any, *args: Any, **params: Any) -> Any:
    """The call in a program on one device. In one on several, a callback may wait for ever for threads that wait for it."""
    axes = context.module_context.axis_context
    number = getattr(axes, "num_devices", None) or getattr(getattr(axes, "mesh", None), "size", 1)
    if number > 1:
        raise ValueError(
            f"flow: wanted one device for a compiled program that calls PyTorch, got {number}; give the flow and its samples on "
            "one device, or call it outside jit."
        )
    return mlir.lower_fun(_called_back, multiple_results=True)(context, *args, **params)


mlir.register_lowering(_torch, _lowered)


def _jvp(primals: Any, tangents: Any, *, kind: str, model: Any) -> tuple[Any, Any]:
    point, linear = primals[: model.num_inputs], primals[model.num_inputs :]
    if kind in ("velocity", "linearised"):
        along = [ad.instantiate_zeros(tangents[place]) for place in differentiable(point)]
        return bind("linearised", model, *point), bind("push", model, *point, *along)
    if any(type(tangent) is not ad.Zero for tangent in tangents[: model.num_inputs]):
        raise TypeError(
            "velocity: wanted first derivatives of a PyTorch model, which are all that its adapter supplies, got a derivative of "
            "one of them."
        )
    along = [ad.instantiate_zeros(tangent) for tangent in tangents[model.num_inputs :]]
    return bind(kind, model, *point, *linear), bind(kind, model, *point, *along)


ad.primitive_jvps[_torch] = _jvp


def _transpose(cotangents: Any, *args: Any, kind: str, model: Any) -> list[Any]:
    """ "push" and "pull", linear in what they add to the point, are each other's transposes."""
    point, linear = args[: model.num_inputs], args[model.num_inputs :]
    cotangents = [ad.instantiate_zeros(cotangent) for cotangent in cotangents]
    outs = bind("pull" if kind == "push" else "push", model, *point, *cotangents)
    wanted = (out if ad.is_undefined_primal(value) else None for out, value in zip(outs, linear, strict=True))
    return [*(None for _ in point), *wanted]


ad.primitive_transposes[_torch] = _transpose


def _batched(args: Any, axes: Any, *, kind: str, model: Any) -> tuple[Any, Any]:
    (size, *_) = {np.shape(value)[axis] for value, axis in zip(args, axes, strict=True) if axis is not None}

    def in_front(value, axis):
        if axis is None:
            return jnp.broadcast_to(value, (size, *np.shape(value)))
        return jnp.moveaxis(value, axis, 0)

    outs = bind(kind, model, *(in_front(value, axis) for value, axis in zip(args, axes, strict=True)))
    return outs, [0] * len(outs)


batching.primitive_batchers[_torch] = _batched
