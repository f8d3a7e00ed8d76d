"""A flow as one safetensors file: the network's weights, and in its header what network, shape and scheduler they are for."""

import dataclasses
import json
import pathlib

import flax
import jax.numpy as jnp
import safetensors
from safetensors.flax import load_file, save_file

from bespoke_jax import schedulers
from bespoke_jax.flow import Flow
from bespoke_jax.models.unet import UNet
from bespoke_jax.solver_file import load_solver
from bespoke_jax.table import SolverTable
from bespoke_jax.theta import Theta

__all__ = ["SHIPPED", "NetworkVelocity", "load_flow", "save_flow", "shipped_solver"]

_WEIGHTS = pathlib.Path(__file__).parent / "weights"
_NETWORKS = {"UNet": UNet}

SHIPPED = {"fashion_fmot": "Fashion-MNIST 28 x 28 x 1 in [-1, 1], unconditional FM-OT, a U-Net of 0.54 M parameters"}
"""The flows that come with the package: name -> what it is."""


def shipped_solver(flow: str, base: str, num_steps: int) -> Theta | SolverTable:
    """The solver that comes with a shipped flow, learned by `experiments.train` as docs/shipped_flow.md says.

    Args:
        flow: name of the flow.
        base: "rk1", "rk2" or "table".
        num_steps: n; the evaluations of a table.

    Raises:
        ValueError: if none was learned for these; names those that were.

    Example:
        >>> shipped_solver("fashion_fmot", "rk2", num_steps=5).nfe
        10
    """
    folder = pathlib.Path(__file__).parent / "solvers" / str(flow)
    # Bespoke solvers are told from their bases by name; a table has none.
    path = folder / (f"table-n{num_steps}.json" if base == "table" else f"{base}-bespoke-n{num_steps}.json")
    if not path.is_file():
        there = sorted(found.stem for found in folder.parent.glob("*/*.json"))
        raise ValueError(f"shipped_solver: none for {flow!r}, {base!r}, {num_steps!r}; there are {', '.join(there)}.")
    return load_solver(path)


@dataclasses.dataclass(frozen=True)
class NetworkVelocity:
    """`velocity(params, t, x)` of a Flax module. Equal by value: flows of equal networks share what is compiled."""

    network: flax.linen.Module

    def __call__(self, params, t, x):
        return self.network.apply(params, t, x)


def save_flow(path, network: UNet, params, event_shape, scheduler: str, dtype=jnp.bfloat16) -> None:
    """Write a velocity network that is a `UNet` to `path` (*.safetensors), its weights rounded to `dtype`.

    Args:
        scheduler: the name of the scheduler it was trained with: "condot", "cosine", "vp" or "edm".
    """
    schedulers.by_name(scheduler)
    fields = {
        f.name: getattr(network, f.name)
        for f in dataclasses.fields(network)
        if f.name not in ("parent", "name", "dtype")
    }
    header = dict(network=type(network).__name__, fields=fields, event_shape=list(event_shape), scheduler=scheduler)
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    save_file({name: jnp.asarray(value, dtype) for name, value in flat.items()}, path, {"flow": json.dumps(header)})


def load_flow(name, dtype=None) -> Flow:
    """A shipped flow by its name (see `SHIPPED`), or one from a file of `save_flow`. Weights are float32.

    Args:
        name: a name or a path.
        dtype: what the network computes in, e.g. `jnp.bfloat16`; its parameters and the state stay float32.

    Raises:
        ValueError: if there is no such shipped flow, or the file is no flow of ours.
        FileNotFoundError: if there is no such file.

    Example:
        >>> flow = load_flow("fashion_fmot")
        >>> flow.event_shape
        (28, 28, 1)
    """
    path = pathlib.Path(name)
    if str(name) in SHIPPED:
        path = _WEIGHTS / f"{name}.safetensors"
    elif path.suffix != ".safetensors":
        raise ValueError(f"load_flow: wanted one of {sorted(SHIPPED)} or a *.safetensors file, got {str(name)!r}.")
    if not path.is_file():
        raise FileNotFoundError(f"load_flow: no file {path}.")
    try:
        with safetensors.safe_open(path, "flax") as file:
            header = json.loads((file.metadata() or {}).get("flow", "null"))
        flat = load_file(path)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path}: truncated, or not a safetensors file ({error}).") from None
    if header is None:
        raise ValueError(
            f"{path}: a safetensors file without our header; wrap its weights in bespoke_jax.Flow yourself."
        )
    fields = {key: tuple(value) if isinstance(value, list) else value for key, value in header["fields"].items()}
    network = _NETWORKS[header["network"]](**fields, dtype=dtype)
    params = flax.traverse_util.unflatten_dict({key: value.astype(jnp.float32) for key, value in flat.items()}, sep="/")
    return Flow(NetworkVelocity(network), params, tuple(header["event_shape"]), schedulers.by_name(header["scheduler"]))
