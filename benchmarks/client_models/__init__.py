"""The models of `benchmarks.clients`, each trained and sampled as its library does it; a client is one file and one row."""

from benchmarks.client_models.cells import cellflow_like
from benchmarks.client_models.diffusionlab import diffusionlab
from benchmarks.client_models.gensbi import gensbi
from benchmarks.client_models.hackable import hackable
from benchmarks.client_models.policy import policy
from benchmarks.client_models.torchcfm import torch_moons

# name: (modules that must be there, what to install, the function)
CLIENTS = {
    "torch": (("torch", "torchcfm"), "torch torchcfm", torch_moons),
    "gensbi": (("gensbi",), "'bespoke_jax[integrations]' (Python 3.12)", gensbi),
    "hackable_diffusion": (("hackable_diffusion",), "'bespoke_jax[integrations]' (Python 3.12)", hackable),
    "diffusionlab": (("diffusionlab",), "'bespoke_jax[integrations]' (Python 3.13)", diffusionlab),
    "cells": ((), "", cellflow_like),
    "policy": ((), "", policy),
}
