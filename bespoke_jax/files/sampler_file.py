"""A sampler as a program in a file: network and solver together, which need JAX, flatbuffers and no other code.

The file consists of the StableHLO program that `jax.export` writes, with the solver's numbers as constants, and of a trailer that
`jax.export` ignores: a description, and a digest that reveals damage. `jax.export.deserialize` alone can thus read the file too.
"""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from bespoke_jax.checks import check_count, check_flag, check_float_dtype, check_number, check_type
from bespoke_jax.files.atomic import check_target, write_whole
from bespoke_jax.files.json_text import parse_json
from bespoke_jax.flow.conditions import check_size, num_conditions
from bespoke_jax.flow.flow import Flow
from bespoke_jax.flow.source import noise_std
from bespoke_jax.run.solve import solve
from bespoke_jax.solver import Solver, check_solver_arrays
from bespoke_jax.types import DTypeLike, PathLike, PyTree

__all__ = ["Sampler", "load_sampler", "save_sampler"]

_FORMAT = b"bespoke_jax sampler, version 1"
_PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def save_sampler(
    path: PathLike,
    flow: Flow,
    solver: Solver,
    *,
    batch_size: int | None = None,
    platforms: Sequence[str] | None = None,
    dtype: DTypeLike = jnp.float32,
    bake_params: bool = False,
) -> None:
    """Write `solve(flow, solver, x0)` to a file as a program, whole or not at all.

    Args:
        path: file name; its folder must exist.
        flow: the velocity field. Its velocity is traced; running the program does not need its code.
        solver: a theta or a table; its numbers become constants of the program.
        batch_size: samples per call; None for any number, which networks that compute shapes in Python may not support. A `given`
            flow has one batch size, that of its conditions, which are parameters; None stands for it.
        platforms: where the program is to run: some of "cpu", "cuda", "rocm", "tpu"; None for the current one.
        dtype: of x0.
        bake_params: store the network's parameters in the file. Otherwise they are an argument, of the same tree and shapes,
            unless the flow has none.

    Raises:
        TypeError, ValueError: for arguments of the wrong kind, before anything is traced; if the velocity is not JAX's, or cannot
            be traced with a symbolic batch size; if the parameters' tree has nodes that `jax.export` cannot write.
        OSError: if the folder is missing, or the file cannot be written. The velocity's own errors pass unchanged.
        ImportError: if flatbuffers is missing, which `jax.export` needs (`pip install 'bespoke_jax[export]'`).

    Examples:
        >>> import tempfile, jax, bespoke_jax as bj
        >>> flow = bj.analytic.gaussian(mean=[1.0, 2.0], std=0.5)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_sampler(f"{folder}/rk2", flow, bj.init_theta("rk2", num_steps=4))
        ...     sampler = load_sampler(f"{folder}/rk2")
        >>> sampler(flow.params, flow.noise(jax.random.key(0), (5,))).shape
        (5, 2)
    """
    path, dtype = check_target(path), check_float_dtype("dtype", dtype)
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise ValueError(f"dtype: wanted one that JAX computes in, got {dtype} while jax_enable_x64 is off.")
    _check_in_jax(check_type("flow", flow, Flow, "a bespoke_jax.Flow"))
    check_solver_arrays("solver", solver).check_flow(flow)
    batch_size, platforms = _checked_batch_size(flow, batch_size), _checked_platforms(platforms)
    noise_std = _noise_std(flow)
    solver, params = jax.device_get((solver, flow.params))  # so that the program is tied to no device

    def sampler(params: PyTree, x0: jax.Array) -> jax.Array:
        return solve(flow.replace(params=params), solver, x0)

    bake_params = check_flag("bake_params", bake_params) or not jax.tree.leaves(params)
    function, known = (lambda x0: sampler(params, x0), ()) if bake_params else (sampler, (params,))
    known = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)), known)

    def arguments(size: Any) -> tuple[Any, ...]:
        return *known, jax.ShapeDtypeStruct((size, *flow.event_shape), dtype)

    program = _serialized(_exported(function, arguments, batch_size, platforms))
    write_whole(path, _content(program, dict(nfe=int(solver.nfe), noise_std=noise_std, baked=bake_params)))


def _content(program: bytes, about: dict[str, Any]) -> bytes:
    """A file: the program, what is said of it, and their digest."""
    content = program + json.dumps(about).encode() + len(program).to_bytes(8, "little") + _FORMAT
    return content + hashlib.sha256(content).digest()


def _check_in_jax(flow: Flow) -> None:
    if flow.outside_jax:
        raise ValueError(
            "flow: wanted a velocity of JAX, which a file can hold, got one that is computed outside JAX; save the solver alone, "
            "by save_solver."
        )


def _checked_batch_size(flow: Flow, batch_size: int | None) -> int | None:
    """The number of samples per call; None for any number."""
    if batch_size is None:
        return num_conditions(flow)
    batch_size = check_count("batch_size", batch_size)
    check_size(flow, batch_size, "batch_size")
    return batch_size


def _checked_platforms(platforms: Sequence[str] | None) -> tuple[str, ...]:
    platforms = (jax.export.default_export_platform(),) if platforms is None else platforms
    if not isinstance(platforms, list | tuple) or not platforms or not all(name in _PLATFORMS for name in platforms):
        raise ValueError(f"platforms: wanted some of {_PLATFORMS}, got {platforms!r}.")
    return tuple(platforms)


def _noise_std(flow: Flow) -> float | None:
    """The standard deviation of Gaussian x0; None for a source of the flow's own."""
    if flow.source is not None:
        return None
    return check_number("flow.scheduler.sigma(0)", noise_std(flow.scheduler), 0)


def _exported(
    function: Callable, arguments: Callable[[Any], tuple], batch_size: int | None, platforms: Sequence[str]
) -> jax.export.Exported:
    """A function traced for arguments of the shapes `arguments(batch size)`, with a symbolic batch size for None."""
    size = jax.export.symbolic_shape("batch")[0] if batch_size is None else batch_size
    try:
        return jax.export.export(jax.jit(function), platforms=platforms)(*arguments(size))
    except Exception as error:  # the network's own, of any kind
        if batch_size is not None:
            raise
        jax.eval_shape(function, *arguments(2))  # errors at every batch size pass unchanged
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(
            f"batch_size: wanted a velocity that JAX can trace with a symbolic batch size, got {reason:.300}; write x.shape[0] "
            "for len(x), or give a size, such as batch_size=64."
        ) from error


def _serialized(exported: jax.export.Exported) -> bytes:
    try:
        return bytes(exported.serialize())
    except (TypeError, ValueError) as error:  # the former for keys of dictionaries
        raise TypeError(
            f"flow: jax.export cannot write the tree of its parameters ({error}); build it from lists, tuples, and dicts whose "
            "keys are strings, or use bake_params=True."
        ) from None


@dataclasses.dataclass(frozen=True)
class Sampler:
    """A loaded sampler: call `sampler(params, x0)`, or `sampler(x0)` if the parameters are in the file.

    The first call compiles it, and so does every new number of samples.

    Attributes:
        event_shape, dtype: of x0 [B, *event_shape] and of the samples.
        batch_size: B; None for any.
        params: shapes and dtypes of the parameters, a tree of `jax.ShapeDtypeStruct`; None if they are in the file.
        nfe: velocity evaluations per sample.
        noise_std: the standard deviation of x0; None if it is to come from the flow's own source, which is not in the file.
        platforms: where it runs.

    Raises:
        TypeError, ValueError: when called with other parameters or another x0; the message names the leaf.
    """

    event_shape: tuple[int, ...]
    dtype: np.dtype
    batch_size: int | None
    params: Any
    nfe: int
    noise_std: float | None
    platforms: tuple[str, ...]
    _call: Callable = dataclasses.field(repr=False)

    def __call__(self, *arguments: Any) -> Float[jax.Array, "B *event"]:
        """Samples [B, *event_shape] from noise x0 [B, *event_shape]."""
        wanted = 1 if self.params is None else 2
        if len(arguments) != wanted:
            names = ("x0",) if wanted == 1 else ("params", "x0")
            raise TypeError(f"sampler: wanted the arguments ({', '.join(names)}), got {len(arguments)} arguments.")
        *params, x0 = arguments
        if not hasattr(x0, "dtype"):
            raise TypeError(f"x0: wanted an array, got {type(x0).__name__}.")
        shape = jnp.shape(x0)
        if shape[1:] != self.event_shape or self.batch_size not in (None, *shape[:1]) or not all(shape[:1] or (0,)):
            batch, why = ("B", "") if self.batch_size is None else (self.batch_size, _FIXED)
            raise ValueError(f"x0: wanted shape [{', '.join(map(str, (batch, *self.event_shape)))}]{why}, got {shape}.")
        if jnp.result_type(x0) != self.dtype:
            raise TypeError(f"x0: wanted dtype {self.dtype}, got {jnp.result_type(x0)}.")
        if params:
            _check_params(self.params, params[0])
        return self._call(*arguments)


_FIXED = " (the file is for so many samples: its batch_size, or the conditions of its flow)"


def _check_params(wanted: PyTree, params: PyTree) -> None:
    wanted, found = (dict(jax.tree_util.tree_leaves_with_path(tree)) for tree in (wanted, params))
    names = {path: "params" + jax.tree_util.keystr(path) for path in (*wanted, *found)}
    for path in names:
        if path not in found or path not in wanted:
            raise ValueError(f"{names[path]}: {'missing' if path in wanted else 'not a parameter of this sampler'}.")
    for path, leaf in wanted.items():
        shape, dtype = jnp.shape(found[path]), jnp.result_type(found[path])
        if (shape, dtype) != (leaf.shape, leaf.dtype):
            raise ValueError(f"{names[path]}: wanted {leaf.dtype}{list(leaf.shape)}, got {dtype}{list(shape)}.")


def load_sampler(path: PathLike) -> Sampler:
    """Read a file written by `save_sampler`. Loading runs nothing; calling the sampler runs its StableHLO program.

    Such a program can call functions of jaxlib, such as a linear solver. Treat a file from a stranger as a program: the digest
    reveals damage, but not who wrote the file, because anyone can compute it.

    Raises:
        FileNotFoundError: if there is no such file.
        ImportError: if flatbuffers is missing.
        ValueError: if it is truncated, damaged or foreign, or of a version of JAX that this one cannot read.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"load_sampler: no file {path}.")
    content = path.read_bytes()
    content, digest = content[:-32], content[-32:]
    if not content.endswith(_FORMAT) or hashlib.sha256(content).digest() != digest:
        raise ValueError(f"{path}: not a whole sampler file; write it again with save_sampler.")
    content = content[: -len(_FORMAT)]
    length = int.from_bytes(content[-8:], "little")
    if length > len(content) - 8:
        raise ValueError(
            f"{path}: wanted a program of {length} bytes, got {len(content) - 8}; write it again with save_sampler."
        )
    about = _read_about(path, content[length:-8])
    try:
        exported = jax.export.deserialize(bytearray(content[:length]))
    except ImportError:  # flatbuffers
        raise
    except Exception as error:  # JAX has several kinds for versions that it does not know
        raise ValueError(f"{path}: JAX {jax.__version__} cannot read it ({error}); write it again.") from None
    params, x0 = _read_arguments(path, exported, about["baked"])
    batch, *event_shape = x0.shape
    return Sampler(
        event_shape=tuple(event_shape),
        dtype=x0.dtype,
        batch_size=None if jax.export.is_symbolic_dim(batch) else int(batch),
        params=params,
        nfe=about["nfe"],
        noise_std=about["noise_std"],
        platforms=tuple(exported.platforms),
        _call=jax.jit(exported.call),
    )


def _read_arguments(path: pathlib.Path, exported: jax.export.Exported, baked: bool) -> tuple[Any, Any]:
    """(parameters or None, x0) of a program, as shapes. x0 may have a symbolic batch size."""
    try:
        avals: Any = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in exported.in_avals]
        arguments, keywords = exported.in_tree.unflatten(avals)
        *params, x0 = arguments
        batch, *event_shape = x0.shape
        if keywords or len(params) != (0 if baked else 1):
            raise ValueError(f"it takes {len(arguments)} arguments")
        event_shape = tuple(int(size) for size in event_shape)
    except Exception as error:  # a program of another kind: any tree, any shapes
        raise ValueError(
            f"{path}: its program is no sampler ({error!s:.200}); write it again with save_sampler."
        ) from None
    return params[0] if params else None, jax.ShapeDtypeStruct((batch, *event_shape), x0.dtype)


def _read_about(path: pathlib.Path, text: bytes) -> dict[str, Any]:
    about = parse_json(str(path), text)
    if not isinstance(about, dict):
        raise ValueError(f"{path}: wanted a JSON object after the program, got {type(about).__name__}.")
    try:
        check_count("nfe", about.get("nfe"))
        if about.get("noise_std", "missing") is not None:
            check_number("noise_std", about.get("noise_std"), 0)
        check_flag("baked", about.get("baked"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return about
