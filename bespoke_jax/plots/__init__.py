"""Figures of solvers: their errors, numbers, paths and samples, drawn with matplotlib (`pip install 'bespoke-jax[plots]'`).

A function with one panel takes `axes` and returns them, one with several takes `figure` and returns it; without, it makes a new
figure. None uses pyplot or keeps state, so they run without a display. `axes.figure.savefig("a.png")` saves, and in a notebook
`axes.figure` shows. matplotlib is imported when the first function is used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bespoke_jax.plots.animate import animation
    from bespoke_jax.plots.curves import error_against_calls, scores_of_checks, validations
    from bespoke_jax.plots.pictures import image_errors, images
    from bespoke_jax.plots.plane import paths, points, principal_plane
    from bespoke_jax.plots.solvers import coefficients, knots
    from bespoke_jax.plots.style import in_style

__all__ = [
    "animation",
    "coefficients",
    "error_against_calls",
    "image_errors",
    "images",
    "in_style",
    "knots",
    "paths",
    "points",
    "principal_plane",
    "scores_of_checks",
    "validations",
]

_MODULES = dict(
    animation="animate",
    coefficients="solvers",
    error_against_calls="curves",
    image_errors="pictures",
    images="pictures",
    in_style="style",
    knots="solvers",
    paths="plane",
    points="plane",
    principal_plane="plane",
    scores_of_checks="curves",
    validations="curves",
)


def __getattr__(name: str) -> Any:
    """Import a function's module, and with it matplotlib, when it is first used."""
    if name not in _MODULES:
        raise AttributeError(f"module 'bespoke_jax.plots' has no attribute {name!r}")
    try:
        module = importlib.import_module(f"bespoke_jax.plots.{_MODULES[name]}")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "matplotlib":
            raise
        raise ImportError(
            f"plots.{name}: wanted matplotlib, which is not installed. Run: pip install 'bespoke-jax[plots]'"
        ) from error
    return getattr(module, name)
