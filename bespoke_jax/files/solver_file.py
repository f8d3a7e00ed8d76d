"""Solver files: a solver as JSON that a person can read."""

import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from bespoke_jax.checks import check_choice, check_count, check_type
from bespoke_jax.dtypes import promote
from bespoke_jax.files import fingerprint
from bespoke_jax.files.atomic import check_path, check_target, write_whole
from bespoke_jax.files.json_text import finite_or_none, json_of_image, numbers_of_json, parse_json
from bespoke_jax.files.table_json import array_of, check_object, table_of
from bespoke_jax.flow.conditions import is_given, like_any
from bespoke_jax.flow.flow import Flow
from bespoke_jax.learned.families import FAMILIES
from bespoke_jax.learned.steps import BASES
from bespoke_jax.learned.theta import Theta
from bespoke_jax.run.probe import check_velocity
from bespoke_jax.solver import Solver, check_solver_arrays
from bespoke_jax.table import SolverTable
from bespoke_jax.types import Array, Numbers, PathLike
from bespoke_jax.warn import warn

__all__ = ["load_solver", "read_solver_file", "save_solver"]

_FORMAT, _GENERAL = (
    f"bespoke_jax solver, version {version}" for version in (1, 2)
)  # 2 if the table is not a plain one
_LARGEST = 16 * 2**20  # bytes; a table of 1000 evaluations takes about 10 MB
_MOST = 10_000  # evaluations
_DTYPES = ("bfloat16", "float16", "float32", "float64")
_ORDERS = {"rk1": 1, "rk2": 2}
_EDITED = 1e-3  # larger differences between raw and derived numbers are edits, not rounding


def save_solver(path: PathLike, theta: Solver, info: dict[str, Any] | None = None, flow: Flow | None = None) -> None:
    """Write a theta or a table to a file, whole or not at all.

    The file holds the family (one of `families.FAMILIES`), nfe, dtype, and the table t, a, b, which any program can run
    (docs/solver_file.md has readers in NumPy and PyTorch), and what else a general table has; for rk1 and rk2 also the order,
    all raw numbers, which of them are learned, and the knots; then "flow", "time_range" and "info". A file that `load_solver`
    would refuse is not written.

    Args:
        path: file name, usually *.json; its folder must exist.
        theta: the solver. Families other than rk1 and rk2 are written, and read, as tables.
        info: a dict of what JSON can hold, stored under "info": validation figures, how it was fitted. NaN and infinity, as the
            loss before the first update, become null.
        flow: the flow that the solver was fitted to, which is checked as `fit` does. Its fingerprint is stored under "flow", so
            that `load_solver` recognises other flows; the flow itself is not. All of this takes 32 velocity evaluations of single
            samples. If the flow keeps a margin from the ends of time (`Flow.time_range`), so do the times t, for programs that
            run the network without it.

    Raises:
        TypeError: if `theta` is not a solver, `flow` not a Flow, or `info` not a dict of what JSON can hold.
        ValueError: if the solver's arrays disagree, or its numbers are not finite; if a velocity is not finite, or depends on
            chance or on its batch; if the file would be larger than 16 MiB.
        OSError: if the folder is missing, or the file cannot be written.

    Examples:
        >>> import tempfile, bespoke_jax as bj
        >>> flow = bj.analytic.gaussian(mean=[1.0, 2.0], std=0.5)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_solver(f"{folder}/rk2.json", bj.init_theta("rk2", num_steps=4), flow=flow)
        ...     load_solver(f"{folder}/rk2.json", flow=flow).nfe
        8
    """
    path = check_target(path)
    check_solver_arrays("theta", theta)
    if flow is not None:
        theta.check_flow(check_type("flow", flow, Flow, "a bespoke_jax.Flow"))
    info = _check_info({} if info is None else info)
    table = theta.unrolled()
    content = _content(theta, table)
    if flow is not None:
        probed = like_any(flow) if is_given(flow) else flow
        check_velocity(probed, probed.ravel(probed.noise(jax.random.key(0), (fingerprint.NUM_SAMPLES,))))
        content["flow"] = fingerprint.fingerprint(flow)
        if flow.time_range != (0.0, 1.0):
            content |= dict(t=_within(table.t, flow.time_range), time_range=_numbers(flow.time_range))
    text = f"{_layout(content | dict(info=info))}\n"
    _read(path, text)  # raises for files that `load_solver` would refuse
    write_whole(path, text.encode())


def _content(theta: Solver, table: SolverTable) -> dict[str, Any]:
    """What the file says of the solver itself; of version 1 if its table is a plain one."""
    numbers = {name: _numbers(value) for name in _NUMBERS if (value := getattr(table, name)) is not None}
    if not all(np.all(np.isfinite(value)) for value in numbers.values()):
        raise ValueError("theta: wanted a finite table, got NaN or infinity; such a solver is not written.")
    others: dict[str, Any] = {} if table.fields is None else dict(fields=list(table.fields))
    if table.scale is not None:
        others["scale"] = table.scale
    if table.block > 1:
        others["block"] = table.block
    if table.xi is not None:
        others["xi"] = json_of_image(table.xi)
    if table.corrections is not None:
        others["corrections"] = table.corrections.saved()
    plain = numbers.keys() == set(_TABLE) and not others
    head = dict(format=_FORMAT if plain else _GENERAL, family=theta.family, nfe=table.nfe, dtype=table.t.dtype.name)
    more = jax.tree.map(lambda value: _numbers(value) if hasattr(value, "dtype") else value, theta.saved())
    return head | numbers | others | more


def _check_info(info: Any) -> dict[str, Any]:
    check_type("info", info, dict, "a dict")
    try:
        return parse_json("info", json.dumps(finite_or_none(info), allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"info: wanted what JSON can hold: strings, finite numbers, lists, dicts ({error}).") from None


def _within(t: Any, time_range: tuple[float, float]) -> list[float]:
    """The times clipped to a range, in float32 at least, which is the precision of a flow's times."""
    t = np.asarray(t, promote(t.dtype, jnp.float32))
    return _numbers(np.clip(t, *np.asarray(time_range, t.dtype)))


_TABLE = ("t", "a", "b")
_NUMBERS = (*_TABLE, "first", "c")
_OTHERS = ("fields", "scale", "block", "corrections")


def _layout(value: Any, indent: str = "") -> str:
    """JSON with a line for each entry of a dictionary and each row of a matrix, rather than each number."""
    inner = indent + " "
    if isinstance(value, dict) and value:
        entries = [f"{json.dumps(str(key))}: {_layout(entry, inner)}" for key, entry in value.items()]
        return "{\n" + ",\n".join(inner + entry for entry in entries) + f"\n{indent}}}"
    if isinstance(value, list | tuple) and any(isinstance(entry, dict | list | tuple) for entry in value):
        rows = [json.dumps(entry, allow_nan=False) for entry in value]
        return "[\n" + ",\n".join(inner + row for row in rows) + f"\n{indent}]"
    return json.dumps(value, allow_nan=False)


def _numbers(array: Array | Numbers) -> Any:
    # A float64 holds every narrower float exactly, and JSON writes enough digits to read it back exactly.
    return np.asarray(array, np.float64).tolist()


def load_solver(path: PathLike, flow: Flow | None = None) -> Theta | SolverTable:
    """Read a file written by `save_solver`: the same numbers, to the bit.

    Refused are strings, booleans, NaN and infinity in place of numbers, numbers that the dtype cannot hold, repeated keys, times
    outside [0, 1], b that is not lower triangular, and counts, shapes, knots or a table that disagree.

    Args:
        path: the file.
        flow: the flow that the solver is to run. If the file was written for another flow, or does not say for which, a warning
            says so; the solver is returned all the same, and `check_solver` measures whether it still serves.

    Raises:
        FileNotFoundError: if there is no such file.
        TypeError: if `flow` is not a Flow.
        ValueError: if the file is truncated, foreign, or edited into something that is not a solver; names the file and the
            field.

    Warns:
        UserWarning: if the file was written for another flow, with the differences as stored and as found; if it does not say for
            which flow it was written, because it was saved without `flow`.
    """
    if flow is not None:
        check_type("flow", flow, Flow, "a bespoke_jax.Flow")
    solver, content = read_solver_file(path)
    if flow is not None:
        _compare(pathlib.Path(path), content.get("flow"), flow)
    return solver


def read_solver_file(path: PathLike) -> tuple[Theta | SolverTable, dict[str, Any]]:
    """(the solver, all that the file says) of a solver file; errors are those of `load_solver`."""
    path = check_path(path)
    if not path.is_file():
        raise FileNotFoundError(f"load_solver: no file {path}.")
    if path.stat().st_size > _LARGEST:
        raise ValueError(f"{path}: wanted a solver file of at most {_LARGEST >> 20} MiB, got a larger file.")
    return _read(path, path.read_bytes())


def _read(path: pathlib.Path, text: str | bytes) -> tuple[Theta | SolverTable, dict[str, Any]]:
    """(the solver, the content) of a solver file with this text."""
    if len(text) > _LARGEST:
        raise ValueError(f"{path}: wanted a solver file of at most {_LARGEST >> 20} MiB, got a larger file.")
    content = parse_json(str(path), text)
    if not isinstance(content, dict) or content.get("format") not in (_FORMAT, _GENERAL):
        got = repr(content["format"])[:80] if isinstance(content, dict) and "format" in content else "other JSON"
        raise ValueError(f"{path}: wanted a solver file, a JSON object with format {_FORMAT!r} or 2, got {got}.")
    try:
        check_object("info", content.get("info", {}))
        stored = content.get("flow")
        if stored is not None:
            fingerprint.check(stored)
        return _solver(content), content
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _compare(path: pathlib.Path, stored: dict[str, Any] | None, flow: Flow) -> None:
    """Warn unless the stored fingerprint is that of `flow`."""
    if stored is None:
        found = [f"{path}: does not say for which flow it was learned (it was saved without flow=)."]
    else:
        found = fingerprint.differences(stored, flow)
        found = [f"{path}: learned for another flow than this one.", *found] if found else []
    if found:
        remedy = "bespoke_jax.check_solver(flow, solver, key) measures whether it serves this one."
        warn("\n  ".join([*found, remedy]))


def _solver(content: dict[str, Any]) -> Theta | SolverTable:
    dtype = check_choice("dtype", content.get("dtype"), _DTYPES)
    family = check_choice("family", content.get("family"), FAMILIES)
    m = check_count("nfe", content.get("nfe"), 1, _MOST)
    shapes = {"t": (m,), "a": (m,), "b": (m, m)}
    _check_version(content, family)
    if family not in BASES:
        solver = table_of(content, m, dtype, general=content["format"] == _GENERAL)
        _check_range(content, np.asarray(solver.t, np.float64))
        solver.check("table")
        return solver
    num_steps = check_count("num_steps", content.get("num_steps"), 1, _MOST)
    _check_follows("nfe", m, BASES[family] * num_steps)
    _check_follows("order", content.get("order", _ORDERS[family]), _ORDERS[family])
    theta = Theta(array_of(content, "raw", (4 * m - 1,), dtype), family, num_steps)
    if not shapes.keys().isdisjoint(content):  # absent from the first files
        # The stored table is read before this one is unrolled, so that the file's length bounds the size of both.
        found = {name: numbers_of_json(name, content.get(name), shape) for name, shape in shapes.items()}
        low, high = _check_range(content, found["t"])
        table = theta.unrolled()
        _check_derived(found, dict(t=np.clip(table.t, low, high), a=table.a, b=table.b))
    if "knots" in content:
        wanted = theta.saved()["knots"]
        check_object("knots", content["knots"])
        stored = {name: content["knots"].get(name) for name in wanted}
        _check_derived({name: numbers_of_json(name, stored[name], wanted[name].shape) for name in wanted}, wanted)
    return theta.learning(content.get("learned", "both"))


def _check_version(content: dict[str, Any], family: str) -> None:
    """Raise ValueError if the file has entries that its format, or its family, has not."""
    extra = [name for name in (*_NUMBERS[len(_TABLE) :], "xi", *_OTHERS) if name in content]
    if extra and (content["format"] != _GENERAL or family in BASES):
        raise ValueError(
            f"{extra[0]}: wanted it in a table of {_GENERAL!r} alone, got {content['format']!r}, {family!r}."
        )
    if family == "calls" and content.get("fields") is None:
        raise ValueError("fields: wanted the network of each call for the family 'calls', got none.")


def _check_follows(name: str, value: Any, wanted: int) -> None:
    if type(value) is not int or value != wanted:
        raise ValueError(f"{name}: wanted {wanted}, which follows from family and num_steps, got {value!r:.50}.")


def _check_range(content: dict[str, Any], t: Float[np.ndarray, "m"]) -> tuple[float, float]:
    """The range that the times were clipped to, after checking that they lie in it up to rounding."""
    low, high = numbers_of_json("time_range", content.get("time_range", [0.0, 1.0]), (2,))
    if not 0 <= low < high <= 1:
        raise ValueError(f"time_range: wanted [first, last] within [0, 1], got {[low, high]}.")
    if not np.all((t >= low - 1e-6) & (t <= high + 1e-6)):
        raise ValueError(f"t: wanted times within [{low:g}, {high:g}], got some from {np.min(t):g} to {np.max(t):g}.")
    return low, high


def _check_derived(stored: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise ValueError if numbers that follow from the raw ones differ from them: one was edited without the other."""
    for name, value in wanted.items():
        value = np.asarray(value, np.float64)
        if not np.allclose(stored[name], value, rtol=0, atol=_EDITED * max(1.0, float(np.max(np.abs(value))))):
            raise ValueError(
                f"{name}: wanted what the raw numbers give, got other numbers; edit the raw ones, then use save_solver."
            )
