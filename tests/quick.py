"""Tests compile much and compute little: the same programs, compiled with less effort, in a third of the time."""

import functools
import os
import subprocess
import sys
import threading

__all__ = ["share_mlir_contexts", "with_flags"]

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


def share_mlir_contexts():
    """Let JAX lower the programs of a thread in one MLIR context, where it makes one for each and keeps them all.

    A new context costs as much as the rest of lowering a small program. It has no threads, for these would lock and share a
    cache to no purpose. A private name of JAX's: without it, tests are slower.
    """
    from jax._src.interpreters import mlir

    make, own = getattr(mlir, "make_ir_context", None), threading.local()

    def shared():
        if not hasattr(own, "context"):
            own.context = make()
            own.context.enable_multithreading(False)
        return own.context

    if make is not None:
        mlir.make_ir_context = shared


@functools.cache
def _are_known(*flags):
    """Whether this version of XLA knows all of these flags; one that it does not know ends the process.

    It is enough to make a client, which reads the flags and takes a fraction of JAX's time to start.
    """
    program = "from jaxlib import xla_client; xla_client.make_cpu_client()"
    environment = os.environ | {"XLA_FLAGS": " ".join(flags)}
    return subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True).returncode == 0
