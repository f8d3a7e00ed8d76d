"""What every dedicated solver asks of its arguments, before anything runs. Each error names argument, value and wish."""

import math
import numbers

import numpy as np

from bespoke_jax.schedulers import Scheduler

__all__ = ["check_choice", "check_count", "check_flag", "check_order", "check_positive", "check_scheduler"]


def _is_integer(value) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def check_count(name: str, value, least: int = 1) -> int:
    """`value`, if it is an integer >= `least`."""
    if not _is_integer(value) or value < least:
        raise ValueError(f"{name}: wanted an integer >= {least}, got {value!r}.")
    return int(value)


def check_order(value, highest: int) -> int:
    """`value`, if it is one of the orders 1..highest."""
    if not _is_integer(value) or not 1 <= value <= highest:
        raise ValueError(f"order: wanted an integer from 1 to {highest}, got {value!r}.")
    return int(value)


def check_positive(name: str, value) -> float:
    """`value`, if it is a positive finite number."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool) or not 0 < value < math.inf:
        raise ValueError(f"{name}: wanted a positive number, got {value!r}.")
    return float(value)


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


def check_scheduler(scheduler, wanted_by: str) -> Scheduler:
    """`scheduler`, if it is one."""
    if not isinstance(scheduler, Scheduler):
        raise ValueError(f"scheduler: {wanted_by} needs a bespoke_jax.schedulers.Scheduler, got {scheduler!r}.")
    return scheduler
