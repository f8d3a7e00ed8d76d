"""Flows as safetensors files, whose header describes the network, event shape, scheduler and prediction of the weights."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Float
from safetensors.numpy import save_file

from bespoke_jax import schedulers
from bespoke_jax.checks import check_choice, check_count, check_flag, check_number, check_shape, check_type
from bespoke_jax.files.solver_file import load_solver
from bespoke_jax.flow.flow import Flow
from bespoke_jax.flow.prediction import PREDICTIONS
from bespoke_jax.learned.theta import Theta
from bespoke_jax.models.denoiser import Denoiser
from bespoke_jax.models.labels import labelled, with_labels
from bespoke_jax.models.networks.adm import ADM
from bespoke_jax.models.networks.songunet import SongUNet
from bespoke_jax.models.networks.unet import UNet
from bespoke_jax.models.preconditioning import Preconditioning
from bespoke_jax.models.weights_io.safetensors_file import find_safetensors, read_header, read_safetensors
from bespoke_jax.models.weights_io.state_dict import check_computation, check_variables, variable_shapes
from bespoke_jax.table import SolverTable
from bespoke_jax.types import Array, DTypeLike, Labels, PathLike, PyTree

__all__ = ["SHIPPED", "NetworkVelocity", "load_flow", "save_denoiser", "save_flow", "shipped_solver"]

_NETWORKS = {network.__name__: network for network in (UNet, ADM, SongUNet)}
_NOT_SAVED = ("parent", "name", "dtype", "remat", "dropout")  # fields that do not change the function of the weights

_FASHION = "Fashion-MNIST 28 x 28 x 1 in [-1, 1], a U-Net of 0.54 M parameters"
SHIPPED = {
    "fashion_fmot": f"{_FASHION}, unconditional FM-OT",
    "fashion_fmot_class": f"{_FASHION}, ten classes, FM-OT: the velocity under CondOT",
    "fashion_cosine_class": f"{_FASHION}, ten classes, FM/v-CS: the velocity under the cosine scheduler",
    "fashion_vp_class": f"{_FASHION}, ten classes, eps-VP: the noise under the variance-preserving scheduler",
}
"""The flows that come with the package: name -> description."""


def shipped_solver(flow: str, base: str, num_steps: int) -> Theta | SolverTable:
    """A solver that comes with a shipped flow, learned by `experiments.train` as described in docs/shipped_flow.md.

    Args:
        flow: name of the flow.
        base: "rk1", "rk2" or "table".
        num_steps: n; for a table its number of evaluations.

    Raises:
        ValueError: for another flow or base, or if the package has no such solver; names the available ones.

    Examples:
        >>> shipped_solver("fashion_fmot", "rk2", num_steps=5).nfe
        10
    """
    check_choice("flow", flow, SHIPPED)
    check_choice("base", base, ("rk1", "rk2", "table"))
    check_count("num_steps", num_steps)
    folder = pathlib.Path(__file__).parent / "solvers" / flow
    # A Bespoke solver's name distinguishes it from its base solver's; a table has no base.
    path = folder / (f"table-n{num_steps}.json" if base == "table" else f"{base}-bespoke-n{num_steps}.json")
    if not path.is_file():
        there = ", ".join(sorted(found.stem for found in folder.glob("*.json")))
        raise ValueError(f"shipped_solver: wanted one of {there} for {flow!r}, got {base!r} with {num_steps} steps.")
    return load_solver(path)


@dataclasses.dataclass(frozen=True)
class NetworkVelocity:
    """`(params, t, x) -> velocity`, or another prediction, of a Flax module.

    Equal by value, so that flows of equal networks share compiled programs.
    """

    network: Any

    def __call__(self, params: PyTree, t: Float[Array, ""], x: Float[Array, "B *event"]) -> Float[Array, "B *event"]:
        return self.network.apply(params, t, x)


def save_flow(
    path: PathLike,
    network: UNet | ADM | SongUNet,
    params: PyTree,
    event_shape: Sequence[int],
    scheduler: str | dict,
    dtype: DTypeLike = jnp.bfloat16,
    preconditioning: Preconditioning | None = None,
    prediction: str = "velocity",
) -> None:
    """Write a flow of one of our networks to a file.

    Args:
        path: *.safetensors.
        network, params: a `UNet`, `ADM` or `SongUNet` and its variables; for a flow of a velocity network,
            `flow.velocity.network` and `flow.params`.
        event_shape: (H, W, C).
        scheduler: the name of the scheduler it was trained with, "condot", "cosine", "vp" or "edm"; or a dictionary with the name
            and the constants that differ from the defaults, `{"name": "edm", "sigma_min": 0.02}`.
        dtype: to which the weights are rounded.
        preconditioning: for the network of a denoiser (`save_denoiser` fills this in).
        prediction: what the network predicts at the scheduler's times, as for `Flow.from_prediction`.

    Raises:
        TypeError: if `event_shape` is not a tuple of integers.
        ValueError: for a network, scheduler or prediction of another kind.

    Examples:
        >>> import jax, tempfile
        >>> net = UNet(channels=(8,), num_blocks=(1,), head_channels=4, num_heads=0)
        >>> shapes = jax.eval_shape(net.init, jax.random.key(0), 0.5, jnp.zeros((1, 4, 4, 1)))
        >>> params = jax.tree.map(lambda s: jnp.zeros(s.shape), shapes)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_flow(f"{folder}/flow.safetensors", net, params, (4, 4, 1), "condot")
        ...     load_flow(f"{folder}/flow.safetensors").event_shape
        (4, 4, 1)
    """
    if type(network) is not _NETWORKS.get(type(network).__name__):
        raise ValueError(f"network: wanted one of {sorted(_NETWORKS)}, got {type(network).__name__}.")
    check_choice("prediction", prediction, PREDICTIONS)
    schedulers.from_config(scheduler)
    shape = list(check_shape("event_shape", event_shape))
    fields = {f.name: getattr(network, f.name) for f in _fields(type(network)) if f.name not in _NOT_SAVED}
    header: dict[str, Any] = dict(network=type(network).__name__, fields=fields, event_shape=shape, scheduler=scheduler)
    if preconditioning is not None:
        header["preconditioning"] = dataclasses.asdict(preconditioning)
    elif prediction != "velocity":
        header["prediction"] = prediction
    flat: dict[str, Any] = dict(flatten_dict(params, sep="/"))
    # Weights are rounded; the label and NCSN++'s frequencies are not.
    arrays = {name: np.asarray(value) for name, value in flat.items()}
    arrays = {name: value.astype(dtype) if name.startswith("params/") else value for name, value in arrays.items()}
    save_file(arrays, path, {"flow": json.dumps(header)})


def save_denoiser(
    path: PathLike,
    model: Denoiser,
    scheduler: str | dict | None = None,
    labels: Labels | None = None,
    dtype: DTypeLike = jnp.float32,
) -> None:
    """Write the flow of a denoiser, `model.flow(scheduler, labels)`, for `load_flow`.

    Args:
        path: *.safetensors.
        model: the denoiser.
        scheduler: as for `save_flow`; None for `model.usual_scheduler`.
        labels: for a conditional network, the class of the flow, or weights [num_classes]. A file has one class, or none.
        dtype: to which the weights are rounded.

    Raises:
        TypeError: if `model` is not a Denoiser.
        ValueError: as `save_flow`, and for labels of several samples.
    """
    check_type("model", model, Denoiser, "a Denoiser")
    if labels is not None and (
        np.ndim(labels) > 1 or (np.ndim(labels) == 1 and np.shape(labels) != (model.num_classes,))
    ):
        raise ValueError(
            f"labels: wanted one class, or its weights, got shape {np.shape(labels)}; give several to load_flow."
        )
    scheduler = model.usual_scheduler if scheduler is None else scheduler
    params = with_labels(model.variables, labels, model.num_classes)
    save_flow(path, model.network, params, model.event_shape, scheduler, dtype, model.preconditioning)


def _fields(network: Any) -> tuple[dataclasses.Field, ...]:
    return dataclasses.fields(network)  # Flax makes dataclasses of modules, which type checkers do not know


def _network_of(path: PathLike, header: dict, flat: dict[str, Any]) -> Any:
    """The network that a header describes, if its fields have the right kinds and are no larger than the file's arrays."""
    network, fields = header.get("network"), header.get("fields")
    kind = _NETWORKS[check_choice(f"{path}: network", network, _NETWORKS)]
    if not isinstance(fields, dict):
        raise ValueError(f"{path}: fields: wanted a dictionary, got {type(fields).__name__}.")
    usual = {f.name: f.default for f in _fields(kind) if f.name not in _NOT_SAVED}
    if unknown := sorted(fields.keys() - usual.keys()):
        raise ValueError(f"{path}: fields: a {network} of this version has no field {unknown[0][:80]!r}.")
    # Every width is the size of an axis of some array, and every block and level has its own arrays.
    widest = max([_LEAST_WIDTH, *(size for value in flat.values() for size in value.shape)])
    values = {}
    for name, value in fields.items():
        label, default = f"{path}: fields: {name}", usual[name]
        most = len(flat) if name == "num_blocks" else widest
        if isinstance(default, tuple):
            if not isinstance(value, list) or len(value) > _MOST_LEVELS:
                raise ValueError(f"{label}: wanted a list of at most {_MOST_LEVELS} integers, got {value!r:.80}.")
            values[name] = tuple(check_count(label, each, 0, most) for each in value)
        elif isinstance(default, bool):
            values[name] = check_flag(label, value)
        elif isinstance(default, int):
            values[name] = check_count(label, value, 0, most)
        elif isinstance(default, float):
            values[name] = check_number(label, value)
        elif not isinstance(value, str):
            raise ValueError(f"{label}: wanted a string, got {value!r:.80}.")
        else:
            values[name] = value
    return kind(**values)


_MOST_LEVELS = 32
_LEAST_WIDTH = 4096  # always allowed, for fields that are no size of an array, such as the number of groups


def _event_shape_of(path: PathLike, header: dict) -> tuple[int, ...]:
    shape = header.get("event_shape")
    if not isinstance(shape, list) or len(shape) != 3:
        raise ValueError(f"{path}: event_shape: wanted a list of three integers, got {shape!r:.80}.")
    return tuple(check_count(f"{path}: event_shape", size, 1, 2**16) for size in shape)


def _preconditioning_of(header: dict) -> Preconditioning | None:
    given = header.get("preconditioning")
    if given is None:
        return None
    check_type("preconditioning", given, dict, "a dictionary")
    betas = check_type("preconditioning: betas", given.get("betas", []), list, "a list of numbers")
    return Preconditioning(**{**given, "betas": tuple(betas)})


def load_flow(name: PathLike, dtype: DTypeLike | None = None, labels: Labels | None = None) -> Flow:
    """A shipped flow, or one from a file of `save_flow`, with weights in float32.

    Args:
        name: a name in `SHIPPED`, or a path.
        dtype: computation type of the network, e.g. `jnp.bfloat16`; its parameters and the state stay float32.
        labels: for a conditional network, one class or weights [num_classes]; classes [B] or weights [B, num_classes] for a class
            of each sample (`bespoke_jax.given`); "all" for every class once; None for the file's, usually no class (zeros).

    Raises:
        ValueError: if there is no such shipped flow, if the file is truncated or holds no flow of ours, or for a class that its
            network does not have.
        TypeError: if `name` is neither a string nor a path, or `dtype` is not a floating dtype.
        FileNotFoundError: if there is no such file.

    Examples:
        >>> flow = load_flow("fashion_fmot")
        >>> flow.event_shape
        (28, 28, 1)
    """
    check_computation(dtype)
    path = find_safetensors(name, SHIPPED, "load_flow")
    flat, metadata = read_safetensors(path)
    header = read_header(path, metadata, "flow", "wrap its weights in bespoke_jax.Flow yourself")
    network = _network_of(path, header, flat).clone(dtype=dtype)
    event_shape = _event_shape_of(path, header)
    try:
        scheduler, preconditioning = schedulers.from_config(header.get("scheduler")), _preconditioning_of(header)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise ValueError(f"{path}: {str(error)[:200]}") from None
    prediction = header.get("prediction", "velocity")
    check_choice(f"{path}: prediction", prediction, PREDICTIONS)
    try:
        wanted = variable_shapes(network, event_shape)
    except Exception as error:  # a network may raise anything for fields that do not fit together
        kind = type(network).__name__
        raise ValueError(f"{path}: no {kind} can be made of its fields ({str(error).splitlines()[0][:200]}).") from None
    check_variables(path, network, wanted, flat)
    arrays = {name: jax.device_put(np.asarray(value).astype(np.float32)) for name, value in flat.items()}
    params = unflatten_dict(arrays, sep="/")
    if preconditioning is not None:
        return Denoiser(network, params, event_shape, preconditioning).flow(scheduler, labels)
    if prediction == "velocity":
        flow = Flow(NetworkVelocity(network), params, event_shape, scheduler)
    else:
        flow = Flow.from_prediction(NetworkVelocity(network), params, event_shape, scheduler, prediction)
    return labelled(flow, labels, network.num_classes)
