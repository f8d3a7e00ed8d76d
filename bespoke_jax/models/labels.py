"""Class labels of a network. They are among its variables, so that flows of different classes share compiled programs."""

from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from bespoke_jax.flow.conditions import CONDITION, given
from bespoke_jax.flow.flow import Flow
from bespoke_jax.types import Labels

__all__ = ["check_labels_given", "labelled", "labels_of_text", "with_labels"]


def with_labels(variables: dict[str, Any], labels: Labels | None, num_classes: int) -> dict[str, Any]:
    """The variables of a network with these labels as their `condition/label`.

    Args:
        variables: of one of our conditional networks.
        labels: integers for classes, [] or [B]; floats for weights, [num_classes] or [B, num_classes]; None for the labels among
            the variables (usually no class, zeros).
        num_classes: 0 for an unconditional network.

    Raises:
        ValueError: if a class is out of range or a weight is not finite (not checked under a trace), if labels have another shape
            or kind or are empty, or if the network is unconditional.

    Examples:
        >>> with_labels({"params": {}}, 2, num_classes=4)["condition"]["label"].tolist()
        [0.0, 0.0, 1.0, 0.0]
    """
    if labels is None:
        return variables
    if not num_classes:
        raise ValueError(f"labels: wanted none, as this network is unconditional, got {labels}.")
    array = labels if isinstance(labels, jax.Array) else np.asarray(labels)
    known = not isinstance(array, jax.core.Tracer)
    if jnp.issubdtype(array.dtype, jnp.integer) and array.ndim < 2:  # floats, and matrices, are weights
        if known and np.any((np.asarray(array) < 0) | (np.asarray(array) >= num_classes)):
            raise ValueError(f"labels: wanted classes from 0 to {num_classes - 1}, got {array}.")
        array = array[..., None] == np.arange(num_classes)
    elif not jnp.issubdtype(array.dtype, jnp.number) or jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise ValueError(f"labels: wanted classes (integers) or weights (floats), got {array.dtype}.")
    elif known and not np.all(np.isfinite(np.asarray(array, np.float64))):
        raise ValueError(f"labels: wanted finite weights, got {array}.")
    if array.shape[-1:] != (num_classes,) or array.ndim > 2 or 0 in array.shape:
        raise ValueError(
            f"labels: wanted classes (integers), [] or [B], or weights [..., {num_classes}], got {array.dtype} {array.shape}."
        )
    return {**variables, CONDITION: {"label": jnp.asarray(array, jnp.float32)}}


def labelled(flow: Flow, labels: Labels | None, num_classes: int) -> Flow:
    """The flow of one of our networks at one class, or `given` a class for each sample.

    Args:
        flow: its parameters are the network's variables.
        labels: as for `with_labels`; "all" for every class once.
        num_classes: 0 for an unconditional network.

    Raises:
        ValueError: as `with_labels`.
    """
    if isinstance(labels, str):
        if labels != "all" or not num_classes:
            raise ValueError(f"labels: wanted classes, or 'all' for a conditional network, got {labels!r}.")
        labels = np.arange(num_classes)
    variables = with_labels(flow.params, labels, num_classes)
    if labels is not None and variables[CONDITION]["label"].ndim == 2:
        return given(flow, variables[CONDITION])
    return flow.replace(params=variables)


def check_labels_given(labels: Labels | None, num_classes: int, source: str) -> None:
    """Raise ValueError if the network in file `source` is conditional and no labels are given.

    For networks that were never trained without a class.
    """
    if num_classes and labels is None:
        raise ValueError(f"{source}: this network needs one of {num_classes} classes; give labels=.")


def labels_of_text(text: str, name: str = "labels") -> int | list[int] | str:
    """The labels of a command line as the importers want them: "3" is a class, "0,3,5" are several, "all" stays.

    Raises:
        ValueError: for other text; calls it `name`.

    Examples:
        >>> labels_of_text("3"), labels_of_text("0,3,5"), labels_of_text("all")
        (3, [0, 3, 5], 'all')
    """
    if text == "all":
        return text
    try:
        classes = [int(label) for label in text.split(",")]
    except ValueError:
        raise ValueError(f"{name}: wanted a class, several with commas, or 'all', got {text!r}.") from None
    return classes if len(classes) > 1 else classes[0]
