"""A solver as a JSON file that a person can read."""

import json
import pathlib
import warnings

import jax
import jax.numpy as jnp
import numpy as np

from bespoke_jax import fingerprint
from bespoke_jax.families import FAMILIES, LearnedSolver
from bespoke_jax.files import write_whole
from bespoke_jax.flow import Flow
from bespoke_jax.table import SolverTable, to_table
from bespoke_jax.theta import BASES, Theta

__all__ = ["load_solver", "save_solver"]

_FORMAT = "bespoke_jax solver, version 1"
_LARGEST = 16 * 2**20  # bytes; a table of 1000 evaluations has some 10 MB
_ORDERS = {"rk1": 1, "rk2": 2}
_EDITED = 1e-3  # a larger difference is no rounding


def save_solver(path, theta: LearnedSolver | SolverTable, info: dict | None = None, flow: Flow | None = None) -> None:
    """Write a theta or a table to `path`, whole or not at all.

    The file has: family (one of `families.FAMILIES`), nfe, dtype; the table t, a, b that any program can run (docs/solver_file.md
    has readers in NumPy and PyTorch); of rk1 and rk2 also the order, all raw numbers, what of them is learned, and the knots;
    "flow" and "info".

    Args:
        path: file name, usually *.json; missing folders are an error.
        theta: the solver. One that is neither rk1 nor rk2 is written as the table that it has become, and read as a table.
        info: anything that JSON can hold, kept under "info": validation figures, how it was fitted.
        flow: what it was fitted to. Its fingerprint goes under "flow" (12 velocity evaluations of single samples), so that
            `load_solver` can tell another flow. The flow itself is not written.

    Raises:
        TypeError: if `theta` is no solver, or `flow` is none.
        ValueError: if the solver's numbers, or the flow's velocity on the fingerprint's probe, are not finite.

    Examples:
        >>> import tempfile, bespoke_jax as bj
        >>> flow = bj.analytic.gaussian(mean=[1.0, 2.0], std=0.5)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_solver(f"{folder}/rk2.json", bj.init_theta("rk2", num_steps=4), flow=flow)
        ...     load_solver(f"{folder}/rk2.json", flow=flow).nfe
        8
    """
    if not isinstance(theta, LearnedSolver | SolverTable):
        raise TypeError(f"theta: wanted a learned solver or a SolverTable, got {type(theta).__name__}.")
    table = _unrolled(theta)
    content = dict(
        format=_FORMAT,
        family="table" if isinstance(theta, SolverTable) else theta.base,
        nfe=table.nfe,
        dtype=table.t.dtype.name,
    ) | {name: _numbers(getattr(table, name)) for name in _TABLE}
    if isinstance(theta, Theta):
        knots = {name: _numbers(value) for name, value in _knots(theta)._asdict().items()}
        content |= dict(order=_ORDERS[theta.base], num_steps=theta.num_steps, learned=theta.learned)
        content |= dict(raw=_numbers(theta.numbers()), knots=knots)
    if not all(np.all(np.isfinite(content[name])) for name in ("raw", *_TABLE) if name in content):
        raise ValueError("theta: holds NaN or infinity; such a solver is not written.")
    if flow is not None:
        content["flow"] = fingerprint.fingerprint(flow)
    write_whole(path, f"{_layout(content | dict(info=info or {}))}\n".encode())


_TABLE = ("t", "a", "b")

# Compiled, as they are wherever solvers run: rounded in the same way, and quicker than one operation after the other.
_unrolled = jax.jit(to_table)
_knots = jax.jit(Theta.knots)


def _layout(value, indent: str = "") -> str:
    """JSON with a line for each entry of a dictionary and each row of a matrix, but not for each number."""
    inner = indent + " "
    if isinstance(value, dict) and value:
        entries = [f"{json.dumps(str(key))}: {_layout(entry, inner)}" for key, entry in value.items()]
        return "{\n" + ",\n".join(inner + entry for entry in entries) + f"\n{indent}}}"
    if isinstance(value, list | tuple) and any(isinstance(entry, dict | list | tuple) for entry in value):
        rows = [json.dumps(entry, allow_nan=False) for entry in value]
        return "[\n" + ",\n".join(inner + row for row in rows) + f"\n{indent}]"
    return json.dumps(value, allow_nan=False)


def _numbers(array):
    # A float64 holds every narrower float exactly, and JSON writes it with as many digits as it takes to read it back.
    return np.asarray(array, np.float64).tolist()


def load_solver(path, flow: Flow | None = None) -> Theta | SolverTable:
    """Read what `save_solver` wrote: the same numbers to the bit.

    Args:
        path: the file.
        flow: what the solver is to run. A `UserWarning` says so if the file was written for another one, with what differs as
            stored and as found, or if it does not say for which (it was saved without `flow`). The solver is returned
            all the same: `check_solver` measures whether it still serves.

    Raises:
        FileNotFoundError: if there is no such file.
        TypeError: if `flow` is none.
        ValueError: if it is truncated, foreign or edited into something that is no solver; names the file and the field.
    """
    if flow is not None and not isinstance(flow, Flow):
        raise TypeError(f"flow: wanted a bespoke_jax.Flow, got {type(flow).__name__}.")
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"load_solver: no file {path}.")
    if path.stat().st_size > _LARGEST:
        raise ValueError(f"{path}: larger than {_LARGEST >> 20} MiB; not a solver file.")
    try:
        content = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not a complete JSON file ({error}); write it again with save_solver.") from None
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise ValueError(f"{path}: not a solver file; wanted a JSON object with format {_FORMAT!r}.")
    solver = _solver(path, content)
    if flow is not None:
        _compare(path, content.get("flow"), flow)
    return solver


def _compare(path, stored, flow):
    """Warn unless the stored fingerprint is that of `flow`."""
    if stored is None:
        found = [f"{path}: does not say for which flow it was learned (it was saved without flow=)."]
    else:
        try:
            found = fingerprint.differences(stored, flow)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        found = [f"{path}: learned for another flow than this one.", *found] if found else []
    if found:
        remedy = "bespoke_jax.check_solver(flow, solver, key) measures whether it serves this one."
        warnings.warn("\n  ".join([*found, remedy]), UserWarning, stacklevel=3)


def _solver(path, content) -> Theta | SolverTable:
    dtype = content.get("dtype")
    if dtype not in ("float32", "float64", "bfloat16", "float16"):
        raise ValueError(f"{path}: dtype: wanted the name of a float type, got {dtype!r}.")
    family = content.get("family")
    if family not in FAMILIES:
        raise ValueError(f"{path}: family: wanted one of {sorted(FAMILIES)}, got {family!r}.")
    if family not in BASES:
        m = _size(path, content, "nfe")
        arrays = {"t": (m,), "a": (m,), "b": (m, m)}
        return SolverTable(**{name: _array(path, content, name, shape, dtype) for name, shape in arrays.items()})
    num_steps = _size(path, content, "num_steps")
    theta = Theta(_array(path, content, "raw", (4 * BASES[family] * num_steps - 1,), dtype), family, num_steps)
    _check_derived(path, content, theta, vars(_unrolled(theta)))
    _check_derived(f"{path}: knots", content.get("knots"), theta, _knots(theta)._asdict())
    try:
        return theta.learning(content.get("learned", "both"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _check_derived(path, stored, theta, wanted):
    """What follows from the raw numbers of rk1 and rk2 is not read: one edited without the other is an error."""
    for name, value in wanted.items():
        if not isinstance(stored, dict) or name not in stored:
            continue
        found = _array(path, stored, name, value.shape, value.dtype)
        if not np.allclose(found, value, rtol=0, atol=_EDITED * max(1.0, float(jnp.max(jnp.abs(value))))):
            raise ValueError(
                f"{path}: {name}: not what the raw numbers give; edit those, and write it again with save_solver."
            )


def _size(path, content, name):
    value = content.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 10_000:
        raise ValueError(f"{path}: {name}: wanted an integer from 1 to 10000, got {value!r}.")
    return value


def _array(path, content, name, shape, dtype):
    try:
        values = np.asarray(content.get(name), np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{path}: {name}: wanted numbers of shape {shape}.") from None
    if values.shape != shape:
        raise ValueError(f"{path}: {name}: wanted shape {shape}, got {values.shape}.")
    if not np.all(np.isfinite(values)):
        raise ValueError(f"{path}: {name}: holds NaN or infinity.")
    return jnp.asarray(values, dtype)
