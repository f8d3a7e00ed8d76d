"""Types that signatures share. Shapes are jaxtyping's: `Float[Array, "*batch D"]` is a floating array of shape [*batch, D].

Arrays are JAX's, traced ones included, or NumPy's, unless an annotation says `jax.Array` or `np.ndarray`. Shapes and dtypes in
annotations document; what a function requires it checks by itself (see `checks`). Fields of dataclasses and named tuples that are
pytrees are plain `jax.Array`: transformations put batches, tangents, shapes and sentinels into them.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Int, Key, Num, PyTree, Real, UInt32

__all__ = [
    "Array",
    "ArrayLike",
    "DTypeLike",
    "Device",
    "EventShape",
    "GridLike",
    "KeyArray",
    "Labels",
    "Number",
    "Numbers",
    "PathLike",
    "PyTree",
    "Scalar",
    "SourceFunction",
    "State",
    "VelocityFunction",
    "Weights",
]

Array: TypeAlias = jax.Array | np.ndarray
"""An array of JAX, traced or not, or of NumPy."""

Number: TypeAlias = float | int | np.number
"""A real number of Python or NumPy, known now."""

Scalar: TypeAlias = Number | Real[Array, ""]
"""One real number, such as a time: of Python or NumPy, or an array without axes, traced or not."""

Device: TypeAlias = jax.Device  # pyright: ignore[reportInvalidTypeForm]  # a class, which JAX's stubs export as a variable
"""A device of JAX."""

ArrayLike: TypeAlias = Number | Num[Array, "..."]
"""A number or an array of any shape."""

Numbers: TypeAlias = Real[Array, "..."] | Sequence[Any]
"""Real numbers, known now: an array, or (nested) lists; the docstring gives the shape."""

GridLike: TypeAlias = str | Real[Array, "_"] | Sequence[Number]
"""A time grid: its name, or its times."""

KeyArray: TypeAlias = Key[jax.Array, ""] | UInt32[Array, "_"]
"""One random key: typed, or raw."""

EventShape: TypeAlias = Any
"""The shape of a sample, integers in a tuple; or a tree of shapes, of samples that are trees of arrays."""

Labels: TypeAlias = str | Number | Int[Array, "..."] | Real[Array, "..."] | Sequence[Any]
"""Class labels: a class, classes, or weights of classes; "all" for every class once."""

PathLike: TypeAlias = str | os.PathLike[str]
"""The place of a file."""

SourceFunction: TypeAlias = Callable[[Any, Any], Any]
"""`f(params, key) -> x0` of one sample."""

State: TypeAlias = Any
"""States of a flow: an array [*batch, *event_shape]; of a flow of trees also a tree of arrays [*batch, *leaf]."""

VelocityFunction: TypeAlias = Callable[[Any, Any, Any], Any]
"""`f(params, t, x) -> array of x's shape`: a velocity, or another prediction."""

Weights: TypeAlias = Any
"""The weights of a sample's numbers: `f(params) -> weights`, or numbers, or a tree of numbers."""
