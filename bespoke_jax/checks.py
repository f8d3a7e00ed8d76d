"""Checks of arguments before anything runs: one function for each kind of argument, one dialect for all errors.

An error names the argument, what was wanted and what came: ``num_paths: wanted an integer >= 1, got -3.`` A number of the wrong
kind or range (a float for an integer, NaN) raises a ValueError, an object of the wrong type a TypeError. Each check returns the
value, numbers as plain Python types, so that static arguments stay hashable.
"""

import math
import numbers
import operator
import types
from collections.abc import Collection
from typing import Any, TypeGuard, TypeVar

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from bespoke_jax.types import DTypeLike, KeyArray

__all__ = [
    "check_array",
    "check_choice",
    "check_count",
    "check_flag",
    "check_float_dtype",
    "check_key",
    "check_number",
    "check_numbers",
    "check_numeric",
    "check_positive",
    "check_shape",
    "check_type",
    "items_of",
    "known",
]


T = TypeVar("T")
_LARGEST = 2**31 - 1  # integers count things in XLA, in 32 bits


def _is_integer(value: Any) -> TypeGuard[int]:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _is_real(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool | np.bool_)


def _scalar(value: Any) -> Any:
    """The number in an array without axes, if it is `known`; anything else unchanged."""
    numbers_of = known(value)
    return numbers_of[()] if numbers_of is not None and numbers_of.ndim == 0 else value


def check_count(name: str, value: Any, least: int = 1, most: int = _LARGEST) -> int:
    """`value`, if it is an integer from `least` to `most`. Raises ValueError otherwise.

    Args:
        name, value: the argument's name, with which errors begin, and its value; likewise in all checks.
        least, most: the range.

    Examples:
        >>> check_count("num_paths", 2.5)
        Traceback (most recent call last):
        ValueError: num_paths: wanted an integer >= 1, got 2.5.
    """
    value = _scalar(value)
    if not _is_integer(value) or not least <= value <= most:
        open_ended = most == _LARGEST and not (_is_integer(value) and value > most)
        wanted = f"an integer >= {least}" if open_ended else f"an integer from {least} to {most}"
        raise ValueError(f"{name}: wanted {wanted}, got {value!r}.")
    return int(value)


def check_number(
    name: str, value: Any, least: float = -math.inf, most: float = math.inf, *, above: bool = False
) -> float:
    """`value`, if it is a finite number from `least` to `most`. Raises ValueError otherwise.

    Args:
        name, value: the argument.
        least, most: the range.
        above: exclude `least` itself.

    Examples:
        >>> check_number("scaling", float("nan"), 0, 1)
        Traceback (most recent call last):
        ValueError: scaling: wanted a number from 0 to 1, got nan.
    """
    value = _scalar(value)
    if not _is_real(value) or not math.isfinite(value) or not least <= value <= most or (above and value == least):
        if most < math.inf:
            wanted = f"a number above {least} and up to {most}" if above else f"a number from {least} to {most}"
        elif least > -math.inf:
            wanted = f"a finite number {'>' if above else '>='} {least}"
        else:
            wanted = "a finite number"
        raise ValueError(f"{name}: wanted {wanted}, got {value!r}.")
    return float(value)


def check_positive(name: str, value: Any) -> float:
    """`value`, if it is a positive finite number. Raises ValueError otherwise."""
    return check_number(name, value, 0, above=True)


def check_choice(name: str, value: Any, choices: Collection[str]) -> str:
    """`value`, if it is one of these strings. Raises ValueError otherwise."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name}: wanted one of {sorted(choices)}, got {value!r}.")
    return value


def check_flag(name: str, value: Any) -> bool:
    """`value`, if it is True or False. Raises ValueError otherwise."""
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{name}: wanted True or False, got {value!r}.")
    return bool(value)


def check_type(name: str, value: Any, kinds: type[T] | types.UnionType, wanted: str) -> T:
    """`value`, if it is an instance of `kinds`. Raises TypeError otherwise.

    Args:
        name, value: the argument.
        kinds: a class, or a union of classes.
        wanted: the same in words, for the error.

    Examples:
        >>> check_type("flow", 3, str, "a bespoke_jax.Flow")
        Traceback (most recent call last):
        TypeError: flow: wanted a bespoke_jax.Flow, got int.
    """
    if not isinstance(value, kinds):
        raise TypeError(f"{name}: wanted {wanted}, got {type(value).__name__}.")
    return value


def check_numeric(name: str, value: Any) -> tuple[tuple[int, ...], np.dtype]:
    """(shape, dtype) of `value`, if it is a number, or an array of numbers: JAX's, NumPy's, traced, or a ShapeDtypeStruct.

    Raises:
        TypeError: if it is something else.
        ValueError: if it is an integer of more than 32 bits.

    Examples:
        >>> check_numeric("x0", [1.0, 2.0])
        Traceback (most recent call last):
        TypeError: x0: wanted an array, got list.
    """
    number = _is_real(value)
    if not number and not (hasattr(value, "shape") and hasattr(value, "dtype")):
        raise TypeError(f"{name}: wanted an array, got {type(value).__name__}.")
    if not number and not (jnp.issubdtype(value.dtype, jnp.number) or jnp.issubdtype(value.dtype, jnp.bool_)):
        raise TypeError(f"{name}: wanted an array of numbers, got one of {value.dtype}.")
    if isinstance(value, int) and abs(value) > _LARGEST:
        raise ValueError(f"{name}: wanted a number of at most 32 bits, got {value}.")
    return jnp.shape(value), jnp.result_type(value)


def check_shape(name: str, value: Any) -> tuple[int, ...]:
    """`value` as a tuple, if it is a tuple or list of positive integers: the shape of a non-empty array.

    Raises:
        TypeError: if it is something else.
        ValueError: if a size is not positive.

    Examples:
        >>> check_shape("event_shape", [32, 32, 3])
        (32, 32, 3)
    """
    if isinstance(value, dict):
        raise TypeError(
            f"{name}: wanted a tuple of integers, got a dict. Trees of shapes are for the event_shape of bespoke_jax.Flow."
        )
    if isinstance(value, str) or not hasattr(value, "__iter__"):
        remedy = f"; did you mean ({value!r},)?" if _is_integer(value) else ""
        raise TypeError(f"{name}: wanted a tuple of integers, got {value!r}{remedy}.")
    try:
        if any(isinstance(size, bool | np.bool_) for size in value):
            raise TypeError
        shape = tuple(operator.index(size) for size in value)
    except TypeError:
        raise TypeError(f"{name}: wanted a tuple of integers, got {value!r}.") from None
    if any(size < 1 for size in shape):
        raise ValueError(f"{name}: wanted positive sizes, got {shape}.")
    return shape


def check_array(name: str, value: T, shape: tuple[int | str, ...]) -> T:
    """`value`, if it is a floating array of this shape, of NumPy or JAX, whose numbers are finite if `known`.

    Args:
        name, value: the argument.
        shape: its sizes; a string stands for any size of at least 1.

    Raises:
        TypeError: if it is not a floating array.
        ValueError: if it has another shape, NaN or infinity.

    Examples:
        >>> check_array("table.t", np.zeros((2, 4)), ("m",))
        Traceback (most recent call last):
        ValueError: table.t: wanted shape [m], got [2, 4].
    """
    array: Any = value
    wanted = f"[{', '.join(map(str, shape))}]"
    if not hasattr(array, "dtype") or not jnp.issubdtype(array.dtype, jnp.floating):
        got = f"dtype {array.dtype}" if hasattr(array, "dtype") else type(array).__name__
        raise TypeError(f"{name}: wanted a floating array of shape {wanted}, got {got}.")
    pairs = zip(array.shape, shape, strict=False)
    if len(array.shape) != len(shape) or any(n < 1 if isinstance(size, str) else n != size for n, size in pairs):
        raise ValueError(f"{name}: wanted shape {wanted}, got {list(array.shape)}.")
    numbers_now = known(array)
    if numbers_now is not None and not np.all(np.isfinite(numbers_now)):
        raise ValueError(f"{name}: wanted finite numbers, got NaN or infinity.")
    return value


def check_numbers(name: str, values: Any, shape: tuple[int | str, ...]) -> Float[np.ndarray, "..."]:
    """`values` in float64, if they are finite real numbers of this shape: an array, or lists of numbers.

    Args:
        name, values: the argument.
        shape: as for `check_array`.

    Raises:
        ValueError: otherwise.

    Examples:
        >>> check_numbers("grid", [0, 0.5, 1], ("n",)).tolist()
        [0.0, 0.5, 1.0]
        >>> check_numbers("grid", ["0", "1"], ("n",))
        Traceback (most recent call last):
        ValueError: grid: wanted numbers of shape [n], got ['0', '1'].
    """
    try:
        array = np.asarray(values)
    except (TypeError, ValueError):  # ragged lists, traced arrays
        array = np.array(None)
    if not any(jnp.issubdtype(array.dtype, kind) for kind in (jnp.floating, jnp.integer)):
        raise ValueError(f"{name}: wanted numbers of shape [{', '.join(map(str, shape))}], got {values!r:.200}.")
    return check_array(name, array.astype(np.float64), shape)


def items_of(value: Any) -> list[Any] | None:
    """The items of a collection; None of a string, and of what has none, such as a number, an array without axes or a key."""
    try:
        return None if isinstance(value, str) else list(value)
    except TypeError:
        return None


def known(value: Any) -> np.ndarray | None:
    """The numbers of an array if they can be read now; None for a tracer, random keys, parts on other machines, or no array.

    Examples:
        >>> known(jnp.ones(2)).tolist(), jax.eval_shape(lambda x: jnp.sum(x) if known(x) is None else x, jnp.ones(2)).shape
        ([1.0, 1.0], ())
    """
    if isinstance(value, jax.core.Tracer) or not isinstance(value, jax.Array | np.ndarray):
        return None
    if jnp.issubdtype(value.dtype, jax.dtypes.extended):  # random keys
        return None
    if isinstance(value, jax.Array) and not (value.is_fully_addressable or value.is_fully_replicated):
        return None
    return np.asarray(value)


def check_float_dtype(name: str, value: DTypeLike | None) -> np.dtype:
    """`value` as a dtype, if it is a dtype of floating-point numbers.

    Raises:
        TypeError: otherwise.

    Examples:
        >>> check_float_dtype("dtype", int)
        Traceback (most recent call last):
        TypeError: dtype: wanted a floating dtype such as float32, got <class 'int'>.
    """
    try:
        if value is not None and not isinstance(value, jax.Array | np.ndarray) and jnp.issubdtype(value, jnp.floating):
            return jnp.dtype(value)
    except TypeError:
        pass
    raise TypeError(f"{name}: wanted a floating dtype such as float32, got {value!r}.")


def check_key(key: Any, name: str = "key") -> KeyArray:
    """`key`, if it is one JAX random key: typed, or raw (a vector of uint32). Raises TypeError otherwise."""
    dtype = getattr(key, "dtype", None)
    typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key) and key.shape == ()
    raw = dtype == jnp.uint32 and key.ndim == 1
    if not (typed or raw):
        raise TypeError(f"{name}: wanted one JAX random key such as jax.random.key(0), got {key!r}.")
    return key
