"""A sampler as one program, network and solver in a file that needs JAX to run and no other code.

The file is what `jax.export` writes, a StableHLO program with the solver's numbers in it, and then a few of ours that
`jax.export` passes over: what it is, and a digest that tells a damaged file. So `jax.export.deserialize` alone reads it too.
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

from bespoke_jax.checks import check_count, check_flag, check_float_dtype, check_number, check_type
from bespoke_jax.files.atomic import check_target, write_whole
from bespoke_jax.files.json_text import parse_json
from bespoke_jax.flow.conditions import check_size, num_conditions
from bespoke_jax.flow.flow import Flow
from bespoke_jax.run.solve import solve
from bespoke_jax.table import Solver, check_solver_arrays

__all__ = ["Sampler", "load_sampler", "save_sampler"]

_FORMAT = b"bespoke_jax sampler, version 1"
_PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def save_sampler(
    path,
    flow: Flow,
    solver: Solver,
    *,
    batch_size: int | None = None,
    platforms: Sequence[str] | None = None,
    dtype=jnp.float32,
    bake_params: bool = False,
) -> None:
    """Write `solve(flow, solver, x0)` to `path` as a program, whole or not at all.

    Args:
        path: file name; missing folders are an error.
        flow: the velocity field. Its velocity is traced, its code is not needed again.
        solver: a theta or a table; its numbers are constants of the program.
        batch_size: samples per call; None for any number, which networks with shapes computed in Python may not take, and for
            as many as a `given` flow has conditions, which are parameters.
        platforms: where it is to run, of "cpu", "cuda", "rocm", "tpu"; the platform here by default.
        dtype: of x0.
        bake_params: put the network's parameters into the file. Without, they are an argument, of the same tree and shapes; a
            flow that has none has nothing to pass.

    Raises:
        TypeError, ValueError: for arguments of the wrong kind, before anything is traced; if the velocity cannot be traced
            for any batch size, or with this one; if the parameters' tree has nodes that `jax.export` cannot write.
        OSError: if the folder is missing, or the file cannot be written.
        ImportError: without flatbuffers, which `jax.export` writes with (`pip install 'bespoke_jax[export]'`).

    Examples:
        >>> import tempfile, jax, bespoke_jax as bj
        >>> flow = bj.analytic.gaussian(mean=[1.0, 2.0], std=0.5)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_sampler(f"{folder}/rk2", flow, bj.init_theta("rk2", num_steps=4))
        ...     sampler = load_sampler(f"{folder}/rk2")
        >>> sampler(flow.params, flow.noise(jax.random.key(0), (5,))).shape
        (5, 2)
    """
    path = check_target(path)
    check_type("flow", flow, Flow, "a bespoke_jax.Flow")
    check_solver_arrays("solver", solver)
    bake_params, dtype = check_flag("bake_params", bake_params), check_float_dtype("dtype", dtype)
    if batch_size is not None:
        batch_size = check_count("batch_size", batch_size)
    platforms = (jax.export.default_export_platform(),) if platforms is None else platforms
    if batch_size is None:
        batch_size = num_conditions(flow)
    else:
        check_size(flow, batch_size, "batch_size")
    if not isinstance(platforms, list | tuple) or not platforms or not all(name in _PLATFORMS for name in platforms):
        raise ValueError(f"platforms: wanted some of {_PLATFORMS}, got {platforms!r}.")
    noise_std = 1.0 if flow.scheduler is None else float(flow.scheduler.sigma(jnp.zeros((), jnp.float32)))
    check_number("flow.scheduler.sigma(0)", noise_std, 0)
    solver, params = jax.device_get((solver, flow.params))  # off the devices that they lie on
    bake_params = bake_params or not jax.tree.leaves(params)

    def sampler(params, x0):
        return solve(Flow(flow.velocity, params, flow.event_shape, flow.scheduler), solver, x0)

    function, known = (lambda x0: sampler(params, x0), ()) if bake_params else (sampler, (params,))
    known = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)), known)

    def arguments(size):
        return *known, jax.ShapeDtypeStruct((size, *flow.event_shape), dtype)

    size = jax.export.symbolic_shape("batch")[0] if batch_size is None else batch_size
    try:
        exported = jax.export.export(jax.jit(function), platforms=tuple(platforms))(*arguments(size))
    except Exception as error:  # from within the network, of any kind
        if batch_size is not None:
            raise
        jax.eval_shape(function, *arguments(2))  # what no number of samples can mend is an error of its own
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(
            f"batch_size: the velocity cannot be traced for any batch size ({reason:.300}); write x.shape[0] for len(x), or "
            "give one, such as batch_size=64."
        ) from error
    try:
        program = bytes(exported.serialize())
    except ValueError as error:
        raise TypeError(
            f"flow: jax.export cannot write the tree of its parameters ({error}); make it of dicts, lists and tuples, or "
            "use bake_params=True."
        ) from None
    about = dict(nfe=int(solver.nfe), noise_std=noise_std, baked=bake_params)
    content = program + json.dumps(about).encode() + len(program).to_bytes(8, "little") + _FORMAT
    write_whole(path, content + hashlib.sha256(content).digest())


@dataclasses.dataclass(frozen=True)
class Sampler:
    """What `load_sampler` gives: `sampler(params, x0)`, or `sampler(x0)` if the parameters are in the file.

    It is compiled at the first call, and for every new number of samples.

    Attributes:
        event_shape, dtype: of x0 [B, *event_shape] and of the samples.
        batch_size: B, or None for any.
        params: shapes and dtypes of the parameters that it wants, a tree of `jax.ShapeDtypeStruct`; None if they are in the file.
        nfe: velocity evaluations of a sample.
        noise_std: the standard deviation of x0.
        platforms: where it runs.

    Raises:
        TypeError, ValueError: for parameters or an x0 that are not those; names the leaf, and what was wanted.
    """

    event_shape: tuple[int, ...]
    dtype: np.dtype
    batch_size: int | None
    params: Any
    nfe: int
    noise_std: float
    platforms: tuple[str, ...]
    _call: Callable = dataclasses.field(repr=False)

    def __call__(self, *arguments):
        """Samples [B, *event_shape] from noise x0 [B, *event_shape]."""
        wanted = 1 if self.params is None else 2
        if len(arguments) != wanted:
            names = ("x0",) if wanted == 1 else ("params", "x0")
            raise TypeError(f"sampler: wanted the arguments ({', '.join(names)}), got {len(arguments)}.")
        *params, x0 = arguments
        shape = jnp.shape(x0)
        if shape[1:] != self.event_shape or self.batch_size not in (None, *shape[:1]) or not all(shape[:1] or (0,)):
            batch = "B" if self.batch_size is None else self.batch_size
            raise ValueError(f"x0: wanted shape [{', '.join(map(str, (batch, *self.event_shape)))}], got {shape}.")
        if jnp.result_type(x0) != self.dtype:
            raise TypeError(f"x0: wanted dtype {self.dtype}, got {jnp.result_type(x0)}.")
        if params:
            _check_params(self.params, params[0])
        return self._call(*arguments)


def _check_params(wanted, params):
    wanted, found = (dict(jax.tree_util.tree_leaves_with_path(tree)) for tree in (wanted, params))
    names = {path: "params" + jax.tree_util.keystr(path) for path in (*wanted, *found)}
    for path in names:
        if path not in found or path not in wanted:
            raise ValueError(f"{names[path]}: {'missing' if path in wanted else 'not a parameter of this sampler'}.")
    for path, leaf in wanted.items():
        shape, dtype = jnp.shape(found[path]), jnp.result_type(found[path])
        if (shape, dtype) != (leaf.shape, leaf.dtype):
            raise ValueError(f"{names[path]}: wanted {leaf.dtype}{list(leaf.shape)}, got {dtype}{list(shape)}.")


def load_sampler(path) -> Sampler:
    """Read what `save_sampler` wrote. Nothing in the file runs but its StableHLO program, and that when it is called.

    Such a program may call what jaxlib has on board (a linear solver, say), and nothing else.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is truncated, damaged or foreign, or of a version of JAX that this one cannot read.

    The digest tells damage, not who wrote the file: whoever makes one can make the digest too.
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
            f"{path}: its program has {length} bytes, the file {len(content)}; write it again with save_sampler."
        )
    about = _read_about(path, content[length:-8])
    try:
        exported = jax.export.deserialize(bytearray(content[:length]))
    except ImportError:  # flatbuffers
        raise
    except Exception as error:  # of the kinds that JAX has for versions it does not know
        raise ValueError(f"{path}: JAX {jax.__version__} cannot read it ({error}); write it again.") from None
    try:
        avals = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in exported.in_avals]
        arguments, keywords = exported.in_tree.unflatten(avals)
        *params, x0 = arguments
        batch, *event_shape = x0.shape
        if keywords or len(params) != (0 if about["baked"] else 1):
            raise ValueError(f"it takes {len(arguments)} arguments")
        event_shape = tuple(int(size) for size in event_shape)
    except Exception as error:  # a program of something else: any tree, any shapes
        raise ValueError(
            f"{path}: its program is no sampler ({error!s:.200}); write it again with save_sampler."
        ) from None
    return Sampler(
        event_shape=event_shape,
        dtype=x0.dtype,
        batch_size=None if jax.export.is_symbolic_dim(batch) else int(batch),
        params=params[0] if params else None,
        nfe=about["nfe"],
        noise_std=about["noise_std"],
        platforms=exported.platforms,
        _call=jax.jit(exported.call),
    )


def _read_about(path, text: bytes) -> dict:
    about = parse_json(path, text)
    if not isinstance(about, dict):
        raise ValueError(f"{path}: wanted a JSON object after the program, got {type(about).__name__}.")
    try:
        check_count("nfe", about.get("nfe"))
        check_number("noise_std", about.get("noise_std"), 0)
        check_flag("baked", about.get("baked"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return about
