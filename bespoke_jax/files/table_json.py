"""Tables as JSON: reading one back, with every number checked."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from bespoke_jax.checks import check_choice, check_count
from bespoke_jax.corrections import OF, Corrections
from bespoke_jax.files.json_text import image_of_json, numbers_of_json
from bespoke_jax.table import SolverTable

__all__ = ["array_of", "check_object", "table_of"]

_MOST = 10_000  # classes


def table_of(content: dict[str, Any], m: int, dtype: str, general: bool) -> SolverTable:
    """The table of m evaluations that a JSON object describes; with the entries of a general one if that is wanted.

    Raises:
        ValueError: for anything that is no table.
    """
    shapes = {"t": (m,), "a": (m,), "b": (m, m)}
    others: dict[str, Any] = {}
    if general:
        shapes |= {name: shape for name, shape in {"first": (), "c": (m + 1,)}.items() if name in content}
        others = dict(fields=_fields(content, m), block=check_count("block", content.get("block", 1)))
        if content.get("scale") is not None:
            others["scale"] = float(numbers_of_json("scale", content["scale"], ()))
    arrays = {name: array_of(content, name, shape, dtype) for name, shape in shapes.items()}
    if "c" in arrays or "xi" in content:
        others["xi"] = _held("xi", image_of_json("xi", content.get("xi")), dtype)
    if general and content.get("corrections") is not None:
        others["corrections"] = _corrections(content["corrections"], arrays, dtype)
    return SolverTable(**arrays, **others)


def _fields(content: dict[str, Any], m: int) -> tuple[int, ...] | None:
    fields = content.get("fields")
    if fields is None:
        return None
    if not isinstance(fields, list) or len(fields) != m or not all(type(f) is int and f in (0, 1) for f in fields):
        raise ValueError(f"fields: wanted a list of {m} numbers 0 or 1, got {fields!r:.80}.")
    return tuple(fields)


def _corrections(more: Any, table: dict[str, Any], dtype: str) -> Corrections:
    """The corrections of a table with these arrays, as `Corrections.saved` writes them."""
    check_object("corrections", more)
    of = check_choice("corrections.of", more.get("of"), OF)
    rows = more.get("a")
    count = check_count("corrections.a: the number of rows", len(rows) if isinstance(rows, list) else 0, 1, _MOST)
    shapes = {name: (count, *jnp.shape(table[name])) for name in ("a", "b", "first", "c") if name in table}
    arrays = {name: _held(name, numbers_of_json(name, more.get(name), shape), dtype) for name, shape in shapes.items()}
    span = None if of == "class" else tuple(numbers_of_json("corrections.span", more.get("span"), (2,)).tolist())
    return Corrections(**arrays, of=of, span=span)  # pyright: ignore[reportArgumentType]  # two numbers


def check_object(name: str, value: Any) -> None:
    """Raise ValueError unless a value is a JSON object."""
    if not isinstance(value, dict):
        raise ValueError(f"{name}: wanted a JSON object, got {type(value).__name__}.")


def array_of(content: dict[str, Any], name: str, shape: tuple[int, ...], dtype: str) -> jax.Array:
    """The array of this name and shape, if the dtype can hold it."""
    return _held(name, numbers_of_json(name, content.get(name), shape), dtype)


def _held(name: str, values: Float[np.ndarray, "..."], dtype: str) -> jax.Array:
    """`values` in this dtype, if it can hold them."""
    with np.errstate(over="ignore"):
        array = jnp.asarray(values, dtype)
    if not np.all(np.isfinite(np.asarray(array))):
        raise ValueError(f"{name}: wanted numbers that {array.dtype} can hold, got up to {np.max(np.abs(values)):g}.")
    return array
