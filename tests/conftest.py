"""What every test of the core needs. Warnings are errors: pyproject.toml says so."""

import os

import hypothesis
import jax
import pytest

# Tests compile much and compute little. With these flags XLA compiles for the CPU four times as fast. An unknown flag
# would end the process, so they are set only for the version they were tried with. The user's own flags win.
_QUICK = (
    "--xla_backend_optimization_level=0",
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_cpu_parallel_codegen_split_count=1",
)
if jax.__version_info__[:2] == (0, 10):
    os.environ["XLA_FLAGS"] = " ".join([*_QUICK, os.environ.get("XLA_FLAGS", "")])

from tests import zoo  # noqa: E402

# The same examples on every run, and no clock: a test that fails here fails everywhere.
hypothesis.settings.register_profile("bespoke", deadline=None, derandomize=True, database=None, max_examples=40)
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
