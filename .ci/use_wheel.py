"""What a user of the installed package does first: four samples of a shipped flow by a shipped solver."""

import importlib.util
import pathlib
import subprocess
import sys

import jax
import numpy as np

import bespoke_jax as bj

installed = pathlib.Path(bj.__file__)
assert pathlib.Path(sys.prefix) in installed.parents, f"not the installed package: {installed}"
assert importlib.util.find_spec("experiments") is None

flow, theta = bj.models.load_flow("fashion_fmot"), bj.models.shipped_solver("fashion_fmot", "rk2", num_steps=5)
clothes = bj.sample(flow, theta, jax.random.key(0), num_samples=4)
assert clothes.shape == (4, 28, 28, 1) and np.all(np.isfinite(clothes)) and 0.5 < np.max(np.abs(clothes)) < 2
print(f"== the installed package sampled {clothes.shape}")

# The command is there, and says what it needs.
script = pathlib.Path(sys.executable).with_name("bespoke")
command = subprocess.run([script, "--help"], capture_output=True, text=True)
if importlib.util.find_spec("click"):
    assert command.returncode == 0 and "Usage: bespoke" in command.stdout
else:
    assert command.returncode == 2 and command.stderr.count("\n") == 1 and "[cli]" in command.stderr
