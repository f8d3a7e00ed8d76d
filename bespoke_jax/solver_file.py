"""A solver as a JSON file that a person can read. The only file access of the core."""

import json
import os
import pathlib

import jax.numpy as jnp
import numpy as np

from bespoke_jax.table import SolverTable
from bespoke_jax.theta import BASES, Theta

__all__ = ["load_solver", "save_solver"]

_FORMAT = "bespoke_jax solver, version 1"
_LARGEST = 16 * 2**20  # bytes; a table of 1000 evaluations has some 10 MB


def save_solver(path, theta: Theta | SolverTable, info: dict | None = None) -> None:
    """Write a theta or a table to `path`, whole or not at all.

    Args:
        path: file name, usually *.json; missing folders are an error.
        theta: the solver.
        info: anything that JSON can hold, kept under "info": validation figures, how it was fitted.

    Example:
        >>> import tempfile, bespoke_jax as bj
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_solver(f"{folder}/rk2.json", bj.init_theta("rk2", num_steps=4))
        ...     load_solver(f"{folder}/rk2.json").nfe
        8
    """
    if isinstance(theta, Theta):
        knots = {name: np.asarray(value, np.float64).tolist() for name, value in theta.knots()._asdict().items()}
        content = dict(
            family=theta.base, num_steps=theta.num_steps, nfe=theta.nfe, dtype=theta.raw.dtype.name,
            raw=_numbers(theta.raw), knots=knots,
        )  # fmt: skip
    elif isinstance(theta, SolverTable):
        content = dict(family="table", nfe=theta.nfe, dtype=theta.t.dtype.name) | {
            name: _numbers(getattr(theta, name)) for name in ("t", "a", "b")
        }
    else:
        raise TypeError(f"theta: wanted a Theta or a SolverTable, got {type(theta).__name__}.")
    if not all(np.all(np.isfinite(content[name])) for name in ("raw", "t", "a", "b") if name in content):
        raise ValueError("theta: holds NaN or infinity; such a solver is not written.")
    text = json.dumps(dict(format=_FORMAT) | content | dict(info=info or {}), indent=1, allow_nan=False)
    path = pathlib.Path(path)
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(text + "\n")
    os.replace(temporary, path)


def _numbers(array):
    # A float64 holds every narrower float exactly, and JSON writes it with as many digits as it takes to read it back.
    return np.asarray(array, np.float64).tolist()


def load_solver(path) -> Theta | SolverTable:
    """Read what `save_solver` wrote: the same numbers to the bit.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is truncated, foreign or edited into something that is no solver; names the file and the field.
    """
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
    dtype = content.get("dtype")
    if dtype not in ("float32", "float64", "bfloat16", "float16"):
        raise ValueError(f"{path}: dtype: wanted the name of a float type, got {dtype!r}.")
    family = content.get("family")
    if family == "table":
        m = _size(path, content, "nfe")
        arrays = {"t": (m,), "a": (m,), "b": (m, m)}
        return SolverTable(**{name: _array(path, content, name, shape, dtype) for name, shape in arrays.items()})
    if family not in BASES:
        raise ValueError(f"{path}: family: wanted one of {[*sorted(BASES), 'table']}, got {family!r}.")
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
