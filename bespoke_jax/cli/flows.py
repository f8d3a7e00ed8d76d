"""The argument FLOW: a shipped flow, a file of `save_flow`, or a function that returns a flow."""

import pathlib

import jax
import numpy as np

from bespoke_jax.flow.flow import Flow
from bespoke_jax.flow.guidance import guided
from bespoke_jax.flow.sharding import mesh_of, replicate
from bespoke_jax.models.flow_file import SHIPPED, load_flow
from bespoke_jax.models.labels import labels_of_text
from bespoke_jax.models.own_code import flow_of_code

__all__ = ["find_flow"]

_LARGE = 2**15  # parameters: of less, several devices take longer to start than they save


def find_flow(name: str, labels: str | None = None, guidance_scale: float = 0.0) -> Flow:
    """The flow that a command is about; a large network on all devices, unless its function has placed it or it runs outside JAX.

    Args:
        name: a name in `SHIPPED`, a *.safetensors file, or "my_module:make_flow".
        labels: for a conditional network from a file: "3", "0,3,5" or "all".
        guidance_scale: the w of `guided`; 0 for none.

    Raises:
        ValueError: if there is no such flow, or it cannot be loaded; the message has the traceback of the user's own code.
        TypeError: if the user's function returns something other than a Flow.

    Examples:
        >>> find_flow("fashion_fmot").event_shape
        (28, 28, 1)
    """
    is_file = name in SHIPPED or pathlib.Path(name).suffix == ".safetensors"
    if is_file:
        flow = load_flow(name, labels=None if labels is None else labels_of_text(labels, "--labels"))
    elif ":" not in name:
        raise ValueError(
            f"FLOW: wanted one of {', '.join(SHIPPED)}, a *.safetensors file of save_flow, or a function that returns a flow, "
            f"'my_module:make_flow', got {name!r}."
        )
    elif labels is not None:
        raise ValueError("--labels: wanted a flow from a file; for your own flow, choose the classes in its function.")
    else:
        flow = flow_of_code(name, name="FLOW")
    found = guided(flow, guidance_scale) if guidance_scale else flow
    is_large = sum(map(np.size, jax.tree.leaves(found))) >= _LARGE
    return replicate(found) if is_large and mesh_of(found) is None and not found.outside_jax else found
