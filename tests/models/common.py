"""Golden arrays of the networks, and how close is close."""

import functools
import json
import pathlib

import numpy as np

from tests.golden.weights import draw_all

__all__ = ["FILES", "configs", "golden", "nhwc", "relative", "state"]

FILES = pathlib.Path(__file__).parents[1] / "golden"


@functools.cache
def _arrays():
    with np.load(FILES / "models.npz") as file:
        return dict(file)


@functools.cache
def _described():
    return json.loads((FILES / "models.json").read_text())


def golden(name):
    """The arrays of one network: inputs and what the original makes of them, NCHW."""
    return {key.removeprefix(f"{name}/"): value for key, value in _arrays().items() if key.startswith(f"{name}/")}


def state(name):
    """Its weights by their original names, in PyTorch's layout."""
    return draw_all(_described()["shapes"][name])


def configs(name):
    return dict(_described()["configs"][name])


def nhwc(x):
    return np.moveaxis(x, 1, -1)


def relative(ours, theirs) -> float:
    """The largest difference over the largest value, sample by sample: the worst of them."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    axes = tuple(range(1, theirs.ndim))
    return float(np.max(np.abs(ours - theirs).max(axes) / np.abs(theirs).max(axes)))
