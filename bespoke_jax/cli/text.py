"""A solver file as text: what it is, its times on a line of plain characters, its numbers as a table."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from bespoke_jax.files.solver_file import read_solver_file
from bespoke_jax.solver import Solver
from bespoke_jax.table import SolverTable
from bespoke_jax.types import PathLike

__all__ = ["describe", "line_of_times"]

_SHOWN = 6  # coefficients of a row
_WIDTH = 64  # characters of the line of times
_IMAGE = "where the flow points from pure noise, about the mean of the data"


def describe(path: PathLike, all_numbers: bool = False) -> str:
    """A solver file as text for the terminal.

    Args:
        path: a file of `save_solver`.
        all_numbers: show all coefficients of a row and all entries of info, however long.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a solver file.

    Examples:
        >>> import tempfile, bespoke_jax as bj
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     bj.save_solver(f"{folder}/euler.json", bj.classic.euler(4))
        ...     print(describe(f"{folder}/euler.json").split("times\\n")[1].split("\\n\\n")[0])
          solver  0 |o---------------o---------------o---------------o----------------| 1
          equal   0 |o---------------o---------------o---------------o----------------| 1
    """
    solver, content = read_solver_file(path)
    table = solver.unrolled()
    parts = [
        "\n".join([str(path), *_pairs(_facts(solver, table, content))]),
        "\n".join(["info", *_pairs(_info(content.get("info", {}), all_numbers))]),
        "\n".join(["times", *_lines_of_times(np.asarray(table.t, np.float64))]),
        "\n".join(["coefficients", *_coefficients(table, all_numbers)]),
    ]
    if solver.has_steps:
        parts.append("\n".join(["scale-time curve at the knots", *_knots(solver)]))
    return "\n\n".join(part for part in parts if part != "info")


def _facts(solver: Solver, table: SolverTable, content: dict[str, Any]) -> dict[str, Any]:
    """What the solver is and for which flow it was learned."""
    steps = f", {content['num_steps']} steps" if "num_steps" in content else ""
    facts = {"family": f"{content['family']}{steps}", "format": content["format"], "dtype": content["dtype"]}
    facts["NFE"] = f"{table.nfe} velocity evaluations per sample"
    if table.latency < table.nfe:
        facts["NFE"] += f", {table.block} at once: {table.latency} that wait for each other"
    if table.fields is None:
        facts["calls"] = f"{table.nfe} of the network per sample; twice as many of a guided flow"
    else:
        conditional = table.fields.count(0)
        facts["calls"] = (
            f"{table.nfe} of one network each: {conditional} conditional, {table.nfe - conditional} unconditional"
        )
    if table.xi is not None:
        facts["image"] = f"xi, {tuple(table.xi.shape)}: {_IMAGE}"
    if table.corrections is not None:
        facts["corrections"] = f"by {table.corrections.of}, {table.corrections.num_features} features"
    return facts | _of_flow(content)


def _of_flow(content: dict[str, Any]) -> dict[str, Any]:
    stored = content.get("flow")
    if stored is None:
        return {"flow": "the file does not say for which"}
    conditions = ", given conditions" if stored.get("condition") else ""
    facts = {"flow": f"event shape {tuple(stored['event_shape'])}{conditions}, known by its fingerprint"}
    if "time_range" in content:
        facts["time range"] = "{:g} to {:g}".format(*content["time_range"])
    return facts


def _info(info: dict[str, Any], all_numbers: bool) -> dict[str, str]:
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in info.items()}
    return {
        name: text if all_numbers or len(text) <= _WIDTH else f"{text[:_WIDTH]} ... ({len(text)} characters)"
        for name, text in texts.items()
    }


def _pairs(pairs: dict[str, Any]) -> Iterable[str]:
    width = max(map(len, pairs), default=0)
    return [f"  {name:<{width}}  {value}" for name, value in pairs.items()]


def line_of_times(times: Float[np.ndarray, "m"], width: int = _WIDTH) -> str:
    """The times on a line from 0 to 1: "o" for one, a digit for several at one place, "+" for more than nine.

    Args:
        times: [m], within [0, 1].
        width: characters between the bars.

    Examples:
        >>> line_of_times(np.array([0.0, 0.5, 0.5, 1.0]), width=11)
        '0 |o----2----o| 1'
    """
    counts = np.bincount(np.rint(np.asarray(times) * (width - 1)).astype(int), minlength=width)
    marks = "".join("-o23456789+"[min(count, 10)] for count in counts)
    return f"0 |{marks}| 1"


def _lines_of_times(times: Float[np.ndarray, "m"]) -> list[str]:
    equal = np.arange(len(times)) / len(times)
    # Of 64 characters the first and the last are the times 0 and 1, so that equal times are drawn at equal distances.
    return [f"  {name}  {line_of_times(t, _WIDTH + 1)}" for name, t in (("solver", times), ("equal ", equal))]


def _coefficients(table: SolverTable, all_numbers: bool) -> list[str]:
    """A row for each evaluation: its time, and the state after it as factors of noise, image and velocities."""
    first = 1.0 if table.first is None else float(table.first)
    times, b = np.asarray(table.t, np.float64), np.asarray(table.b, np.float64)
    factors = {"a": np.asarray(table.a, np.float64)}
    head = f"  state 0 = {first:g} x0"
    if table.c is not None:
        head += f" {float(table.c[0]):+.4g} xi"
        factors["c"] = np.asarray(table.c, np.float64)[1:]
    shown = table.nfe if all_numbers else _SHOWN
    least = [max(0, i + 1 - shown) for i in range(table.nfe)]
    rows = [
        [str(i), f"{times[i]:.4f}", "" if table.fields is None else "cu"[table.fields[i]]]
        + [f"{values[i]:.4f}" for values in factors.values()]
        + [("... " if least[i] else "") + " ".join(f"{value:8.4f}" for value in b[i, least[i] : i + 1])]
        for i in range(table.nfe)
    ]
    names = ["i", "t", "" if table.fields is None else "net", *factors, f"b, up to the last {shown}"]
    said = "  state i + 1 = a x0 + c xi + sum_j b_j u_j; x0: noise, xi: image, u_j: velocity at t_j and state j"
    if table.c is None:
        said = said.replace(" + c xi", "").replace(" xi: image,", "")
    return [said, head, "", *_aligned(names, rows)]


def _aligned(names: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns aligned to the right, the last one to the left; empty ones are left out."""
    columns = [column for column in zip(names, *rows, strict=True) if any(column)]
    widths = [max(map(len, column)) for column in columns]
    lines = []
    for row in zip(*columns, strict=True):
        *cells, last = row
        cells = [f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=False)]
        lines.append("  " + "  ".join([*cells, last]))
    return lines


def _knots(solver: Any) -> list[str]:
    knots = [np.asarray(value, np.float64) for value in solver.knots()]
    rows = [[str(j)] + [f"{value[j]:.4f}" if j < len(value) else "" for value in knots] for j in range(len(knots[0]))]
    return _aligned(["knot", "t", "dt/dr", "s", "ds/dr"], rows)
