"""Tests compile much and compute little: the same programs, compiled with less effort, in a third of the time."""

import importlib.util
import mmap
import pathlib
import threading

__all__ = ["share_mlir_contexts", "with_flags"]

_FLAGS = {
    "xla_cpu_use_fusion_emitters": "false",  # they take three quarters of the time to compile
    "xla_cpu_parallel_codegen_split_count": "1",
}


def with_flags(given):
    """XLA_FLAGS for a process that compiles much and computes little: `given`, and what it leaves open of ours."""
    missing = [name for name in _FLAGS if name not in given]
    return " ".join([*given.split(), *(f"--{name}={_FLAGS[name]}" for name in missing if _is_known(name))])


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


def _is_known(flag):
    """Whether this version of XLA knows a flag; one that it does not know ends the process. Its library holds their names."""
    spec = importlib.util.find_spec("jaxlib")
    return any(
        _contains(path, flag.encode()) for folder in spec.submodule_search_locations for path in _libraries(folder)
    )


def _libraries(folder):
    """The largest first."""
    return sorted(pathlib.Path(folder).glob("*.so"), key=lambda path: -path.stat().st_size)


def _contains(path, text):
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(text) >= 0
