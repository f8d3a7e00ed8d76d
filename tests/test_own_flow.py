"""The launchers on a flow of the user's own code: `config.flow.name=python`."""

import sys
import types

import numpy as np
import pytest

import bespoke_jax as bj
from experiments import train
from experiments.configs import own_flow as own_config
from experiments.learning import flows, frechet, own_flow, settings
from experiments.learning.prepare import prepare
from experiments.report import page
from experiments.run.config import ConfigDict
from experiments.run.errors import WrongType
from tests.small_run import small_config

pytestmark = pytest.mark.usefixtures("one_device")

MODULE = """
import jax.numpy as jnp
import bespoke_jax as bj

def velocity(params, t, x):
    return params["mean"] - {slope} * x

def make_flow(mean=1.0):
    return bj.Flow(velocity, {{"mean": jnp.full({size}, mean)}}, ({size},))

def broken():
    return undefined_name

def other():
    return [1, 2]

number = 3
"""


@pytest.fixture
def module(own_modules, request):
    """Write the module `mine_<test>` into the working directory; returns its name."""
    name = "mine_" + "".join(letter for letter in request.node.name if letter.isalnum())

    def write(slope=1.0, size=2):
        (own_modules / f"{name}.py").write_text(MODULE.format(slope=slope, size=size))
        sys.modules.pop(name, None)
        return name

    return write


def load(path, **options):
    return flows.load(ConfigDict(dict(name="python", path=path, **options)))


def test_a_function_of_the_working_directory_makes_the_flow(module):
    name = module()
    np.testing.assert_allclose(load(f"{name}:make_flow")(0.5, np.zeros(2, np.float32)), 1.0)
    np.testing.assert_allclose(load(f"{name}:make_flow", kwargs=dict(mean=2.0))(0.5, np.zeros(2, np.float32)), 2.0)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("{}", r"wanted a module and a function in it, 'my_module:make_flow', got"),
        (3, r"wanted a module and a function in it"),
        (
            "no_such_module:make_flow",
            r"cannot be imported\.\n\n.*ModuleNotFoundError: No module named 'no_such_module'",
        ),
        ("{}:no_such_function", r"cannot be imported\.\n\n.*AttributeError: .*no_such_function"),
        ("{}:number", r"wanted '.*' to be a function, got int"),
        ("{}:broken", r"raised an exception\.\n\nTraceback.*return undefined_name\n.*NameError"),
    ],
)
def test_what_cannot_be_loaded_shows_the_users_own_traceback(module, path, message):
    name = module()
    with pytest.raises(ValueError, match=r"(?s)^config\.flow\.path: .*" + message) as found:
        load(path.format(name) if isinstance(path, str) else path)
    assert own_flow.__file__ not in str(found.value)


def test_what_is_no_flow_is_a_type_error(module, tmp_path):
    name = module()
    with pytest.raises(
        WrongType, match=r"^config\.flow\.path: wanted '.*:other' to return a bespoke_jax\.Flow, got list\.$"
    ):
        load(f"{name}:other")
    assert issubclass(WrongType, TypeError)
    with pytest.raises(SystemExit, match=r"got list\.$"):
        train.main(run_config(f"{name}:other"), tmp_path / "run")


@pytest.mark.parametrize("kwargs", [3, "mean"])
def test_wrong_kwargs_are_named(module, kwargs):
    with pytest.raises(ValueError, match=r"^config\.flow\.kwargs: wanted keyword arguments"):
        load(f"{module()}:make_flow", kwargs=kwargs)


def run_config(path):
    config = small_config()
    config.flow = dict(name="python", path=path, kwargs=dict())
    config.solvers = dict(rk2=(1,))
    config.fit.stage1.update(loss="endpoint", num_iterations=1)
    config.fit.stage2.num_iterations = 0
    return config


def test_a_run_has_points_in_the_place_of_images(module, tmp_path):
    config, run = run_config(f"{module()}:make_flow"), tmp_path / "run"
    assert train.main(config, run) == 0
    assert all((run / "figures" / f"{name}_rk2.png").exists() for name in ("samples", "paths"))
    assert "Samples, rk2" in (run / "report.html").read_text()
    assert bj.load_solver(run / "solvers" / "rk2-bespoke-n1.json").nfe == 2


@pytest.mark.parametrize(
    ("shape", "labels"),
    [
        ((), ("true end", "end")),
        ((1,), ("true end", "end")),
        ((2,), ("first coordinate", "second coordinate")),
        ((2, 3), ("first component", "second component")),
    ],
)
def test_points_of_any_shape_are_drawn(shape, labels):
    ends = np.random.default_rng(0).standard_normal((3, 5, *shape))
    jobs = [settings.Job("rk2", 1), settings.Job("rk2", 2)]
    samples = {(name, nfe): ends[0] for name in ("rk2", "rk2-bespoke") for nfe in (2, 4)}
    _, _, figure, _ = page._points("rk2", jobs, types.SimpleNamespace(test=types.SimpleNamespace(x1=ends[1])), samples)
    assert len(figure.axes) == 4 and (figure.get_supxlabel(), figure.get_supylabel()) == labels
    truth, drawn = (np.asarray(dots.get_offsets()) for dots in figure.axes[0].collections)
    if shape == (2,):
        np.testing.assert_allclose((truth, drawn), (ends[1], ends[0]))
    if shape in ((), (1,)):
        np.testing.assert_allclose(drawn, np.stack([ends[1].ravel(), ends[0].ravel()], axis=1))


def test_a_run_goes_on_with_its_own_flow_alone(module, tmp_path):
    config, run = run_config(f"{module()}:make_flow"), tmp_path / "run"
    prepare(config, run)[2].close()
    prepare(config, run)[2].close()
    module(slope=1.5)  # the parameters are the same, the code is not
    with pytest.raises(
        ValueError, match=r"(?s)^workdir: .* holds a run of another flow\. It differs in\n  velocity: RMS"
    ):
        prepare(config, run)
    (run / "flow.json").write_text("{")
    with pytest.raises(ValueError, match=r"^workdir: .*flow\.json is damaged"):
        prepare(config, run)
    config.flow.kwargs = dict(mean=2.0)  # in the stamp
    with pytest.raises(ValueError, match=r"config\.flow\.fingerprint"):
        prepare(config, run)


def test_features_are_of_images(module):
    flow = load(f"{module()}:make_flow")
    statistic = frechet.Statistic("fid", lambda x: x, None, ("features", "mine"))
    with pytest.raises(
        ValueError, match=r"^config\.flow: wanted a flow of images \[H, W, C\], .* got the event shape \(2,\)"
    ):
        frechet.check_statistic(statistic, flow, "rmse")


def test_the_shipped_config_has_a_flow():
    flow = flows.load(own_config.get_config().flow)
    assert flow.event_shape == (2,)
