"""The annotations of the public functions, checked at every call that the tests make.

jaxtyping compares shapes and dtypes, beartype the rest. What the annotations refuse, the function itself has to refuse, with an
error that names the argument: a call that violates them without one fails the test, since either the annotation or the check in
the function is wrong.
"""

import contextlib
import functools
import inspect
import types

import beartype
import jaxtyping
import numpy as np
from beartype import FrozenDict

import bespoke_jax as bj

METHODS = {
    bj.Flow: ("__call__", "noise", "batch_shape", "from_prediction"),
    bj.Paths: ("of_ends", "at", "velocity", "take"),
    bj.Theta: ("learning", "knots", "table"),
    bj.SolverTable: ("walk", "begin", "step", "times", "program", "table"),
    bj.LearnedTable: ("of", "table"),
    bj.LearnedTimes: ("of", "times", "table"),
    bj.LearnedCurve: ("identity", "with_steps", "like", "at", "table"),
    bj.Recipe: ("resolve",),
    bj.LevenbergMarquardt: ("init", "update"),
    bj.schedulers.Scheduler: ("snr", "snr_inverse", "time_of", "at"),
}
"""The methods that are checked, by their classes."""


# As type checkers have it, an int is a float; and NumPy's numbers are as good as Python's.
_OVERRIDES = FrozenDict({int: int | np.integer, float: float | int | np.number})
_BEARTYPE = beartype.beartype(conf=beartype.BeartypeConf(hint_overrides=_OVERRIDES))


def checked(function):
    """The function, with its annotations checked at each call."""
    strict = jaxtyping.jaxtyped(typechecker=_BEARTYPE)(function)

    @functools.wraps(function)
    def call(*args, **kwargs):
        try:
            return strict(*args, **kwargs)
        except jaxtyping.TypeCheckError as violation:
            function(*args, **kwargs)  # refuses this by itself, or
            raise AssertionError(
                f"{function.__qualname__}: its annotations refuse a call that it serves"
            ) from violation

    return call


def public_functions():
    """(namespace, name, function) of every public function: of the package, and of the modules that it names."""
    spaces = [bj, *(value for name in bj.__all__ if isinstance(value := getattr(bj, name), types.ModuleType))]
    for space in spaces:
        for name in space.__all__:
            value = getattr(space, name)
            if inspect.isfunction(value) and value.__module__.startswith("bespoke_jax"):
                yield space, name, value


_PLAIN = []  # (namespace, name, what stands there without checks)


def install():
    """Put the checked functions and methods in the place of the plain ones."""
    for space, name, function in list(public_functions()):
        _PLAIN.append((space, name, function))
        setattr(space, name, checked(function))
    for kind, names in METHODS.items():
        for name in names:
            raw = inspect.getattr_static(kind, name)
            is_class_method = isinstance(raw, classmethod)
            found = checked(raw.__func__ if is_class_method else raw)
            _PLAIN.append((kind, name, raw))
            setattr(kind, name, classmethod(found) if is_class_method else found)


@contextlib.contextmanager
def uninstalled():
    """The plain functions and methods, for tests of what a caller's stack has to do with."""
    checked = [(space, name, inspect.getattr_static(space, name)) for space, name, _ in _PLAIN]
    for space, name, value in _PLAIN:
        setattr(space, name, value)
    try:
        yield
    finally:
        for space, name, value in checked:
            setattr(space, name, value)
