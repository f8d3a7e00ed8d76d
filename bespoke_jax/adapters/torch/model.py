"""PyTorch's side of the adapter: calling the model, and its derivatives by autograd."""

import dataclasses
import functools
import importlib
import math
import threading
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.dlpack
import jax.numpy as jnp
import numpy as np

from bespoke_jax.adapters.torch.primitive import differentiable
from bespoke_jax.types import Array

__all__ = ["Call", "TorchModel", "import_torch"]


def import_torch() -> Any:
    """The module `torch`. Raises ImportError, which says how to install it, if it is missing."""
    try:
        return importlib.import_module("torch")
    except ImportError as error:
        raise ImportError(f"PyTorch is missing ({error}): pip install torch.") from error


@functools.cache
def _load_forward_mode() -> None:
    """Let PyTorch import what its forward mode needs, in which it warns of a function of its own (2.14: torch.jit.script)."""
    forward = importlib.import_module("torch.autograd.forward_ad")
    number = import_torch().zeros(())
    with warnings.catch_warnings(), forward.dual_level():
        warnings.filterwarnings("ignore", message=".*torch.jit.* is deprecated")
        forward.make_dual(number, number)


@dataclasses.dataclass
class Call:
    """The tensors of one call of the model: inputs of N samples (t [N], x [N, *event], leaves [N, ...]), and its output."""

    inputs: list[Any]
    out: Any


@dataclasses.dataclass
class _Memory:
    """What is left of earlier calls: the graph of the last one that was linearised, and all calls while they are recorded."""

    lock: Any = dataclasses.field(default_factory=threading.Lock)
    last: Call | None = None
    recorded: list[Call] | None = None


@dataclasses.dataclass(frozen=True)
class TorchModel:
    """A PyTorch model as a function of arrays. Frozen: equal by value, so that flows of one model share compiled programs.

    Its methods are the kinds of call of the primitive, which says what they take and give. Axes before the batch, from `vmap`,
    become one batch, so that the model is called once.

    The graph of the last call that was linearised is kept until the next call, for pullbacks at the same point. Elsewhere, and
    in compiled programs, a pullback runs the model again.

    Attributes:
        function: `function(t, x)` or `function(t, x, condition)`, of tensors.
        condition: the structure of the condition; None without one.
        per_sample_time: whether it takes t as [N], rather than as a scalar.
        device, dtype: those of its inputs; dtype None for the dtype of the states.
    """

    function: Callable
    condition: Any
    per_sample_time: bool
    device: Any
    dtype: Any
    memory: _Memory = dataclasses.field(default_factory=_Memory, compare=False, repr=False)

    @property
    def num_inputs(self) -> int:
        """t, x and the leaves of the condition."""
        return 2 + (0 if self.condition is None else self.condition.num_leaves)

    def forget(self) -> None:
        """Give back the memory of the graph that is kept."""
        with self.memory.lock:
            self.memory.last = None

    def velocity(self, *point: Array) -> list[Array]:
        """u, without a graph."""
        torch = import_torch()
        with self.memory.lock, torch.inference_mode(False), torch.no_grad():
            self.memory.last = None
            return [_array(self._run(self._inputs(point)), point[1])]

    def linearised(self, *point: Array) -> list[Array]:
        """u, whose graph is kept."""
        with self.memory.lock:
            return [_array(self.linearised_at(self._inputs(point)).out, point[1])]

    def pull(self, *args: Array) -> list[Array]:
        """The cotangents of t, x and the floating leaves."""
        torch = import_torch()
        *point, w = args
        with self.memory.lock:
            call = self._graph(self._inputs(point))
            wanted = [value for value in call.inputs if value.requires_grad]
            if call.out.requires_grad:
                along = _tensor(w, call.out.device, call.out.dtype).reshape(call.out.shape)
                found = torch.autograd.grad(call.out, wanted, along, retain_graph=True, allow_unused=True)
            else:
                found = [None] * len(wanted)  # the probe has seen that it depends on nothing
        grads = [torch.zeros_like(x) if grad is None else grad for x, grad in zip(wanted, found, strict=True)]
        places = differentiable(point)
        return [
            _array(self._of_lead(grad, place, point), point[place]) for grad, place in zip(grads, places, strict=True)
        ]

    def push(self, *args: Array) -> list[Array]:
        """The tangent of u, by forward mode."""
        torch = import_torch()
        _load_forward_mode()
        point, tangents = args[: self.num_inputs], args[self.num_inputs :]
        places = differentiable(point)
        with self.memory.lock, torch.inference_mode(False), torch.no_grad():
            inputs = self._inputs(point)
            whole = list(point)
            for place, tangent in zip(places, tangents, strict=True):
                whole[place] = tangent
            along = self._inputs(whole)

            def of_floats(*values):
                mixed = list(inputs)
                for place, value in zip(places, values, strict=True):
                    mixed[place] = value
                return self._run(mixed)

            floats, along = (tuple(values[place] for place in places) for values in (inputs, along))
            _, tangent = torch.func.jvp(of_floats, floats, along)
            return [_array(tangent, point[1])]

    def linearised_at(self, inputs: list[Any]) -> Call:
        """A call with its graph, which is kept."""
        torch = import_torch()
        self.memory.last = None  # frees its memory before the next graph takes as much
        with torch.inference_mode(False), torch.enable_grad():
            inputs = [value.clone().requires_grad_(value.is_floating_point()) for value in inputs]
            self.memory.last = Call(inputs, self._run(inputs))
        return self.memory.last

    def _graph(self, inputs: list[Any]) -> Call:
        """A call with its graph: the last one, if that was at the same point."""
        last = self.memory.last
        if last is not None and all(map(import_torch().equal, last.inputs, inputs)):
            return last
        return self.linearised_at(inputs)

    def _run(self, inputs: list[Any]) -> Any:
        """The output [N, *event] of the model."""
        torch = import_torch()
        if getattr(self.function, "training", False):
            raise ValueError("model: wanted a module in evaluation mode, got one in training mode; call model.eval().")
        try:
            if self.per_sample_time:
                out = self._of(*inputs)
            else:
                out = torch.func.vmap(lambda *one: self._of(one[0], *(x[None] for x in one[1:]))[0])(*inputs)
        except Exception as error:
            error.add_note(f"The PyTorch model was called with {_described(inputs)}.")
            raise
        if not isinstance(out, torch.Tensor):
            raise TypeError(
                f"model: wanted a tensor, got {type(out).__name__}; give a function of (t, x) that returns the tensor in it."
            )
        if out.shape != inputs[1].shape:
            raise ValueError(f"model: wanted the shape of x, {tuple(inputs[1].shape)}, got {tuple(out.shape)}.")
        if not out.is_floating_point():
            raise TypeError(f"model: wanted a floating tensor, got {out.dtype}.")
        if self.memory.recorded is not None:
            self.memory.recorded.append(Call(inputs, out))
        return out

    def _of(self, t: Any, x: Any, *leaves: Any) -> Any:
        if self.condition is None:
            return self.function(t, x)
        return self.function(t, x, jax.tree.unflatten(self.condition, leaves))

    def _inputs(self, point: Any) -> list[Any]:
        """The tensors of N samples: axes before the batch and the batch as one; t and leaves once for each sample."""
        t, x, *leaves = point
        lead, batch = np.shape(t), np.shape(x)[np.ndim(t)]
        torch, number = import_torch(), math.prod(lead) * batch

        def repeated(value):
            own = value.shape[len(lead) :]
            each = value.reshape(math.prod(lead), 1, *own).expand(-1, batch, *[-1] * len(own))
            return each.reshape(number, *own)

        x = _tensor(x, self.device, self.dtype)
        t = _tensor(t, self.device, torch.promote_types(x.dtype, torch.float32))  # narrower times are too coarse
        others = [repeated(t)]
        for leaf in leaves:
            leaf = _tensor(leaf, self.device)
            if leaf.is_floating_point():
                leaf = leaf.to(x.dtype)
            elif leaf.dtype != torch.bool:
                leaf = leaf.to(torch.int64)  # PyTorch's own indices
            others.append(repeated(leaf))
        return [others[0], x.reshape(number, *x.shape[len(lead) + 1 :]), *others[1:]]

    def _of_lead(self, grad: Any, place: int, point: Any) -> Any:
        """The gradient of an argument from those of N samples."""
        lead, shape = np.shape(point[0]), np.shape(point[place])
        return grad if place == 1 else grad.reshape(*lead, -1, *shape[len(lead) :]).sum(len(lead))


def _described(inputs: list[Any]) -> str:
    names = ["t", "x", *("condition" for _ in inputs[2:])]
    tensors = (f"{name} {list(value.shape)} {value.dtype}" for name, value in zip(names, inputs, strict=True))
    return f"{', '.join(tensors)}, on {inputs[1].device}"


def _tensor(array: Array, device: Any, dtype: Any = None) -> Any:
    """A tensor of its own memory, so that a model which writes into its input writes into nothing of JAX's."""
    torch = import_torch()
    if device.type == "cuda" and _platform(array) == "gpu":
        return torch.from_dlpack(array).to(device=device, dtype=dtype, copy=True)
    values = np.array(array)
    if values.dtype == jnp.bfloat16:  # NumPy has none of its own
        tensor = torch.from_numpy(values.view(np.int16)).view(torch.bfloat16)
    else:
        tensor = torch.from_numpy(values)
    return tensor.to(device=device, dtype=dtype)


def _array(tensor: Any, like: Array) -> Array:
    """The tensor as an array of the kind, shape and dtype of `like`, beside it."""
    torch = import_torch()
    tensor = tensor.detach().reshape(like.shape)
    if tensor.device.type == "cuda" and _platform(like) == "gpu":
        return jax.dlpack.from_dlpack(tensor.contiguous()).astype(like.dtype)
    values = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).cpu().numpy().astype(like.dtype)
    if not isinstance(like, jax.Array):
        return values
    return jax.device_put(values, like.sharding) if like.committed else jnp.asarray(values)


def _platform(array: Array) -> str:
    if not isinstance(array, jax.Array):
        return "cpu"
    return "gpu" if {device.platform for device in array.devices()} <= {"gpu", "cuda", "rocm"} else "cpu"
