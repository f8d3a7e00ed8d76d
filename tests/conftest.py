"""What every test of the core needs. Warnings are errors: pyproject.toml says so."""

import contextlib
import fcntl
import gc
import os
import sys

from tests import quick

os.environ["XLA_FLAGS"] = quick.with_flags(os.environ.get("XLA_FLAGS", ""))  # XLA reads it when it first compiles
if "PYTEST_XDIST_WORKER" in os.environ:  # workers share the cores: threads of one would wait for those of the other
    os.environ["XLA_FLAGS"] += " --xla_cpu_multi_thread_eigen=false"

import hypothesis
import jax
import jax.experimental
import pytest

if not hasattr(jax, "enable_x64"):  # the oldest versions that we support have it elsewhere
    jax.enable_x64 = jax.experimental.enable_x64

import bespoke_jax as bj
from tests import typechecked, zoo

collect_ignore_glob = ["golden/make_*.py"]  # need the libraries that the golden arrays come from

# Eight devices on a machine that has one: what nobody spreads over them runs on the first, as ever.
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_cpu_enable_async_dispatch", False)  # one program at a time: they share few threads
jax.config.update("jax_disable_most_optimizations", True)  # tests compile much and compute little
jax.config.update("jax_traceback_in_locations_limit", 0)  # where an operation was traced: written into every program

quick.share_mlir_contexts()
typechecked.install()
gc.set_threshold(50_000)  # tracing makes many objects and few cycles

# The same examples on every run, and no clock: a test that fails here fails everywhere.
hypothesis.settings.register_profile("bespoke", deadline=None, derandomize=True, database=None, max_examples=24)
hypothesis.settings.load_profile("bespoke")


@pytest.fixture(scope="module")
def float64():
    """A module in float64, where no dtype is promoted silently: `pytestmark = pytest.mark.usefixtures("float64")`.

    So a float32 array that turns up where float64 was meant, or the other way, is an error and not a rounded digit.
    """
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture(params=zoo.PROBLEMS)
def problem(request):
    """Each problem of the zoo in turn."""
    return zoo.PROBLEMS[request.param]


@pytest.fixture(params=["rk1", "rk2"])
def base(request):
    return request.param


@contextlib.contextmanager
def flows_on(number):
    """Launchers spread samples over so many devices and not eight, which take far longer for every small program."""
    replicate, few = bj.sharding.replicate, jax.devices()[:number]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bj.sharding, "replicate", lambda flow, devices=None: replicate(flow, devices or few))
        yield


@pytest.fixture(scope="module")
def one_device():
    """A module that runs launchers: `pytestmark = pytest.mark.usefixtures("one_device")`. test_train.py has a run on two."""
    with flows_on(1):
        yield


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory):
    """The folder of a run of the launcher that nothing disturbed. The first worker to need it makes it for all."""
    from experiments import train
    from tests.small_run import small_config

    of_workers = tmp_path_factory.getbasetemp().parent if "PYTEST_XDIST_WORKER" in os.environ else None
    folder = (of_workers or tmp_path_factory.mktemp("runs")) / "whole"
    with open(folder.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            with flows_on(1):  # as in the modules that damage copies of it: their results must have its bits
                assert train.main(small_config(), folder) == 0
    return folder


@pytest.fixture
def own_modules(tmp_path, monkeypatch):
    """A working directory for modules of the user's own; none of them stays imported, nor the folder importable."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # a module may be written twice within a second
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def no_pictures(monkeypatch):
    """Figures are made, but not rendered, which takes longer."""
    from experiments.run.runs import Run

    monkeypatch.setattr(Run, "write_figure", lambda *_: b"")


@pytest.fixture
def no_report(monkeypatch):
    """Drawing takes longer than all the rest of a small run, once that is compiled."""
    from experiments.report import page

    monkeypatch.setattr(page, "write", lambda *_: None)
