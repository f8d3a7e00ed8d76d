"""Tests compile much and compute little: the same programs, compiled with less effort, in a third of the time."""

import functools
import os
import subprocess
import sys

__all__ = ["lower_without_threads", "with_flags"]

_FLAGS = {
    "xla_cpu_use_fusion_emitters": "false",  # they take three quarters of the time to compile
    "xla_cpu_parallel_codegen_split_count": "1",
}


def with_flags(given):
    """XLA_FLAGS for a process that compiles much and computes little: `given`, and what it leaves open of ours."""
    ours = [f"--{name}={value}" for name, value in _FLAGS.items() if name not in given]
    if ours and not _are_known(*ours):
        ours = [flag for flag in ours if _are_known(flag)]
    return " ".join([*given.split(), *ours])


def lower_without_threads():
    """Let JAX make its MLIR contexts, one a program, without threads.

    JAX keeps every program's context. Those with threads share a cache that each new one reads from end to end, so that
    after some thousand programs the next takes five times as long to lower. A private name of JAX's: without it, tests are slow.
    """
    from jax._src.interpreters import mlir

    make = getattr(mlir, "make_ir_context", None)

    def without_threads():
        context = make()
        context.enable_multithreading(False)
        return context

    if make is not None:
        mlir.make_ir_context = without_threads


@functools.cache
def _are_known(*flags):
    """Whether this version of XLA knows all of these flags; one that it does not know ends the process."""
    program = "import jax; jax.jit(lambda x: x + 1)(1.0)"
    environment = os.environ | {"XLA_FLAGS": " ".join(flags), "JAX_PLATFORMS": "cpu"}
    return subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True).returncode == 0
