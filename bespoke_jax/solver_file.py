"""A solver as a JSON file that a person can read. The only file access of the core."""

import json
import os
import pathlib
import warnings

import jax
import jax.numpy as jnp
import numpy as np

from bespoke_jax import fingerprint
from bespoke_jax.families import FAMILIES, LearnedSolver
from bespoke_jax.flow import Flow
from bespoke_jax.table import SolverTable, to_table
from bespoke_jax.theta import BASES, Theta

__all__ = ["load_solver", "save_solver"]

_FORMAT = "bespoke_jax solver, version 1"
_LARGEST = 16 * 2**20  # bytes; a table of 1000 evaluations has some 10 MB
_ORDERS = {"rk1": 1, "rk2": 2}


def save_solver(path, theta: LearnedSolver | SolverTable, info: dict | None = None, flow: Flow | None = None) -> None:
    """Write a theta or a table to `path`, whole or not at all.

    The file has: family (one of `families.FAMILIES`), nfe, dtype; of rk1 and rk2 the order, the raw numbers, and the knots for
    people to read; of all others t, a and b; "flow" and "info".

    Args:
        path: file name, usually *.json; missing folders are an error.
        theta: the solver. One that is neither rk1 nor rk2 is written as the table that it has become, and read as a table.
        info: anything that JSON can hold, kept under "info": validation figures, how it was fitted.
        flow: what it was fitted to. Its fingerprint goes under "flow" (12 velocity evaluations of single samples), so that
            `load_solver` can tell another flow. The flow itself is not written.

    Raises:
        TypeError: if `theta` is no solver, or `flow` is none.
        ValueError: if the solver's numbers, or the flow's velocity on the fingerprint's probe, are not finite.

    Example:
        >>> import tempfile, bespoke_jax as bj
        >>> flow = bj.analytic.gaussian(mean=[1.0, 2.0], std=0.5)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_solver(f"{folder}/rk2.json", bj.init_theta("rk2", num_steps=4), flow=flow)
        ...     load_solver(f"{folder}/rk2.json", flow=flow).nfe
        8
    """
    if isinstance(theta, Theta):
        knots = {name: np.asarray(value, np.float64).tolist() for name, value in theta.knots()._asdict().items()}
        content = dict(
            family=theta.base, order=_ORDERS[theta.base], num_steps=theta.num_steps, nfe=theta.nfe,
            dtype=theta.raw.dtype.name, raw=_numbers(theta.raw), knots=knots,
        )  # fmt: skip
    elif isinstance(theta, LearnedSolver | SolverTable):
        table, family = _unrolled(theta), "table" if isinstance(theta, SolverTable) else theta.base
        content = dict(family=family, nfe=table.nfe, dtype=table.t.dtype.name) | {
            name: _numbers(getattr(table, name)) for name in ("t", "a", "b")
        }
    else:
        raise TypeError(f"theta: wanted a learned solver or a SolverTable, got {type(theta).__name__}.")
    if not all(np.all(np.isfinite(content[name])) for name in ("raw", "t", "a", "b") if name in content):
        raise ValueError("theta: holds NaN or infinity; such a solver is not written.")
    if flow is not None:
        content["flow"] = fingerprint.fingerprint(flow)
    text = json.dumps(dict(format=_FORMAT) | content | dict(info=info or {}), indent=1, allow_nan=False)
    path = pathlib.Path(path)
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(text + "\n")
    os.replace(temporary, path)


# Compiled, as it is wherever solvers run: rounded in the same way, and quicker than one operation after the other.
_unrolled = jax.jit(to_table)


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
    raw = _array(path, content, "raw", (4 * BASES[family] * num_steps - 1,), dtype)
    return Theta(raw, family, num_steps)


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
