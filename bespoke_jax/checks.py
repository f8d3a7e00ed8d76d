"""Checks of arguments, before anything runs: one function for each kind of argument, one dialect for every error.

An error names the argument, what was wanted and what came: ``num_paths: wanted an integer >= 1, got -3.`` A value of the wrong
kind that a number could have (a float where an integer belongs, NaN) is a ValueError; an object of the wrong type a TypeError.
Each check returns the value as the plain Python type that it stands for, so that what is static stays hashable.
"""

import math
import numbers
import operator

import jax
import jax.numpy as jnp
import numpy as np

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
    "check_order",
    "check_positive",
    "check_shape",
    "check_type",
    "known",
]


def _is_integer(value) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _scalar(value):
    """The number in an array of no axes whose number is known; anything else as it is."""
    numbers_of = known(value)
    return numbers_of[()] if numbers_of is not None and numbers_of.ndim == 0 else value


_LARGEST = 2**31 - 1  # of the integers that XLA counts with


def check_count(name: str, value, least: int = 1, most: int = _LARGEST) -> int:
    """`value`, if it is an integer from `least` to `most`.

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


def check_order(value, highest: int) -> int:
    """`value`, if it is one of the orders 1..highest."""
    return check_count("order", value, 1, highest)


def check_number(name: str, value, least: float = -math.inf, most: float = math.inf, *, above: bool = False) -> float:
    """`value`, if it is a finite number from `least` to `most`; with `above`, one above `least`.

    Examples:
        >>> check_number("scaling", float("nan"), 0, 1)
        Traceback (most recent call last):
        ValueError: scaling: wanted a number from 0 to 1, got nan.
    """
    value = _scalar(value)
    number = isinstance(value, numbers.Real) and not isinstance(value, bool | np.bool_)
    if not number or not math.isfinite(value) or not least <= value <= most or (above and value == least):
        if most < math.inf:
            wanted = f"a number above {least} and up to {most}" if above else f"a number from {least} to {most}"
        elif least > -math.inf:
            wanted = f"a finite number {'>' if above else '>='} {least}"
        else:
            wanted = "a finite number"
        raise ValueError(f"{name}: wanted {wanted}, got {value!r}.")
    return float(value)


def check_positive(name: str, value) -> float:
    """`value`, if it is a positive finite number."""
    return check_number(name, value, 0, above=True)


def check_choice(name: str, value, choices) -> str:
    """`value`, if it is one of these strings."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name}: wanted one of {sorted(choices)}, got {value!r}.")
    return value


def check_flag(name: str, value) -> bool:
    """`value`, if it is True or False."""
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{name}: wanted True or False, got {value!r}.")
    return bool(value)


def check_type(name: str, value, kinds, wanted: str):
    """`value`, if it is an instance of `kinds`; a TypeError says that `wanted` was wanted.

    Examples:
        >>> check_type("flow", 3, str, "a bespoke_jax.Flow")
        Traceback (most recent call last):
        TypeError: flow: wanted a bespoke_jax.Flow, got int.
    """
    if not isinstance(value, kinds):
        raise TypeError(f"{name}: wanted {wanted}, got {type(value).__name__}.")
    return value


def check_numeric(name: str, value) -> tuple[tuple[int, ...], np.dtype]:
    """(shape, dtype) of `value`, if it is an array of numbers, of JAX or NumPy, or a number; traced ones and shapes too.

    Examples:
        >>> check_numeric("x0", [1.0, 2.0])
        Traceback (most recent call last):
        TypeError: x0: wanted an array, got list.
    """
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not number and not (hasattr(value, "shape") and hasattr(value, "dtype")):
        raise TypeError(f"{name}: wanted an array, got {type(value).__name__}.")
    if not number and not (jnp.issubdtype(value.dtype, jnp.number) or jnp.issubdtype(value.dtype, jnp.bool_)):
        raise TypeError(f"{name}: wanted an array of numbers, got one of {value.dtype}.")
    if isinstance(value, int) and abs(value) > _LARGEST:
        raise ValueError(f"{name}: wanted a number of at most 32 bits, got {value}.")
    return jnp.shape(value), jnp.result_type(value)


def check_shape(name: str, value) -> tuple[int, ...]:
    """`value`, if it is a tuple or list of positive integers: the shape of an array that holds something.

    Examples:
        >>> check_shape("event_shape", [32, 32, 3])
        (32, 32, 3)
    """
    if isinstance(value, dict):
        raise TypeError(
            f"{name}: wanted a tuple of integers, got a dict. A state is one array: flatten a tree into one, "
            "and take it apart in the velocity (jax.flatten_util.ravel_pytree)."
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


def check_array(name: str, value, shape: tuple[int | str, ...]):
    """`value`, if it is a floating array of this shape, NumPy's or JAX's, whose numbers are finite where they are `known`.

    Args:
        name, value: the argument.
        shape: its sizes; a letter stands for any size of at least 1.

    Examples:
        >>> check_array("table.t", np.zeros((2, 4)), ("m",))
        Traceback (most recent call last):
        ValueError: table.t: wanted shape [m], got [2, 4].
    """
    wanted = f"[{', '.join(map(str, shape))}]"
    if not hasattr(value, "dtype") or not jnp.issubdtype(value.dtype, jnp.floating):
        got = f"dtype {value.dtype}" if hasattr(value, "dtype") else type(value).__name__
        raise TypeError(f"{name}: wanted a floating array of shape {wanted}, got {got}.")
    pairs = zip(value.shape, shape, strict=False)
    if len(value.shape) != len(shape) or any(n < 1 if isinstance(size, str) else n != size for n, size in pairs):
        raise ValueError(f"{name}: wanted shape {wanted}, got {list(value.shape)}.")
    numbers_now = known(value)
    if numbers_now is not None and not np.all(np.isfinite(numbers_now)):
        raise ValueError(f"{name}: wanted finite numbers, got NaN or infinity.")
    return value


def check_numbers(name: str, values, shape: tuple[int | str, ...]) -> np.ndarray:
    """`values` in float64, if they are finite real numbers of this shape: an array, or lists of numbers.

    Args:
        name, values: the argument.
        shape: as for `check_array`.

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


def known(value) -> np.ndarray | None:
    """The numbers of an array; None where there are none to look at: of a tracer, a shape, or parts on other machines.

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


def check_float_dtype(name: str, value) -> np.dtype:
    """`value` as a dtype, if it is that of floating-point numbers.

    Examples:
        >>> check_float_dtype("dtype", int)
        Traceback (most recent call last):
        TypeError: dtype: wanted a floating dtype such as float32, got <class 'int'>.
    """
    try:
        is_dtype = value is not None and not isinstance(value, jax.Array | np.ndarray)
        floating = is_dtype and jnp.issubdtype(value, jnp.floating)
    except TypeError:
        floating = False
    if not floating:
        raise TypeError(f"{name}: wanted a floating dtype such as float32, got {value!r}.")
    return jnp.dtype(value)


def check_key(key, name: str = "key"):
    """`key`, if it is one JAX random key: typed, or the raw pair of uint32."""
    dtype = getattr(key, "dtype", None)
    typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key) and key.shape == ()
    raw = dtype == jnp.uint32 and key.ndim == 1
    if not (typed or raw):
        raise TypeError(f"{name}: wanted one JAX random key such as jax.random.key(0), got {key!r}.")
    return key
