"""The models of `benchmarks.clients`, each trained and sampled as its library does it; a client is one file and one row."""

import functools
from collections.abc import Callable

from benchmarks.client_models.cellflow import cellflow
from benchmarks.client_models.cells import cellflow_like
from benchmarks.client_models.client import Client
from benchmarks.client_models.diffusionlab import diffusionlab
from benchmarks.client_models.gensbi import gensbi
from benchmarks.client_models.hackable import hackable
from benchmarks.client_models.molecules import egnn
from benchmarks.client_models.policy import policy
from benchmarks.client_models.sbibm import TASKS, sbibm
from benchmarks.client_models.swirl import swirl
from benchmarks.client_models.torchcfm import torch_moons
from benchmarks.client_models.weather import weather

# name: (modules that must be there, what to install, the function)
CLIENTS: dict[str, tuple[tuple[str, ...], str, Callable[[], Client]]] = {
    "torch": (("torch", "torchcfm"), "torch torchcfm", torch_moons),
    "gensbi": (("gensbi",), "'bespoke_jax[integrations]' (Python 3.12)", gensbi),
    "hackable_diffusion": (("hackable_diffusion",), "'bespoke_jax[integrations]' (Python 3.12)", hackable),
    "diffusionlab": (("diffusionlab",), "'bespoke_jax[integrations]' (Python 3.13)", diffusionlab),
    "cellflow": (("cellflow", "anndata"), "'bespoke_jax[integrations]' (Python 3.12)", cellflow),
    "swirl_dynamics": (("swirl_dynamics",), "swirl-dynamics (from its repository)", swirl),
    "cells": ((), "", cellflow_like),
    "policy": ((), "", policy),
    "molecules": ((), "", egnn),
    "weather": ((), "", weather),
}
_NEEDED, _INSTALL = ("sbibm_jax", "gensbi"), "sbibm-jax 'bespoke_jax[integrations]' (Python 3.12)"
CLIENTS |= {f"sbibm_{task}": (_NEEDED, _INSTALL, functools.partial(sbibm, task)) for task in TASKS}
