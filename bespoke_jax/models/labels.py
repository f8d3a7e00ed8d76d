"""Class labels of a network: data among its variables, so that flows of different classes share what is compiled."""

import jax
import jax.numpy as jnp
import numpy as np

from bespoke_jax.flow.conditions import CONDITION, given
from bespoke_jax.flow.flow import Flow

__all__ = ["check_labels_given", "labelled", "with_labels"]


def with_labels(variables: dict, labels, num_classes: int) -> dict:
    """The variables of a network with these labels as their `condition/label`.

    Args:
        variables: of one of our conditional networks.
        labels: None (leave them: no class, zeros), a class or [B] classes (integers), or weights [num_classes] or
            [B, num_classes] (floats).
        num_classes: 0 for an unconditional network.

    Raises:
        ValueError: if a class is out of range or a weight is not finite (as far as it is known; not under a trace), labels are of
            another shape or kind or there are none, or the network is unconditional.

    Examples:
        >>> with_labels({"params": {}}, 2, num_classes=4)["condition"]["label"].tolist()
        [0.0, 0.0, 1.0, 0.0]
    """
    if labels is None:
        return variables
    if not num_classes:
        raise ValueError(f"labels: this network is unconditional; got {labels}, leave them out.")
    if not isinstance(labels, jax.Array):
        labels = np.asarray(labels)
    known = not isinstance(labels, jax.core.Tracer)
    if jnp.issubdtype(labels.dtype, jnp.integer) and labels.ndim < 2:  # of floats, they are weights
        if known and np.any((np.asarray(labels) < 0) | (np.asarray(labels) >= num_classes)):
            raise ValueError(f"labels: wanted classes from 0 to {num_classes - 1}, got {labels}.")
        labels = labels[..., None] == np.arange(num_classes)
    elif not jnp.issubdtype(labels.dtype, jnp.number) or jnp.issubdtype(labels.dtype, jnp.complexfloating):
        raise ValueError(f"labels: wanted classes (integers) or weights (floats), got {labels.dtype}.")
    elif known and not np.all(np.isfinite(np.asarray(labels, np.float64))):
        raise ValueError(f"labels: wanted finite weights, got {labels}.")
    if labels.shape[-1:] != (num_classes,) or labels.ndim > 2 or 0 in labels.shape:
        raise ValueError(
            f"labels: wanted classes (integers), [] or [B], or weights [..., {num_classes}], got {labels.dtype} {labels.shape}."
        )
    return {**variables, CONDITION: {"label": jnp.asarray(labels, jnp.float32)}}


def labelled(flow: Flow, labels, num_classes: int) -> Flow:
    """The flow of a network of ours, at one class, or `given` a class for each sample.

    Args:
        flow: its parameters are the network's variables.
        labels: as for `with_labels`; "all" for every class once.

    Raises:
        ValueError: as `with_labels`.
    """
    if isinstance(labels, str):
        if labels != "all" or not num_classes:
            raise ValueError(f"labels: wanted classes, or 'all' of a conditional network, got {labels!r}.")
        labels = np.arange(num_classes)
    variables = with_labels(flow.params, labels, num_classes)
    if labels is not None and variables[CONDITION]["label"].ndim == 2:
        return given(flow, variables[CONDITION])
    return Flow(flow.velocity, variables, flow.event_shape, flow.scheduler)


def check_labels_given(labels, num_classes: int, source: str) -> None:
    """Raise ValueError if the network of file `source` is conditional, never trained without a class, and got none."""
    if num_classes and labels is None:
        raise ValueError(f"{source}: this network wants one of {num_classes} classes; give labels=.")
