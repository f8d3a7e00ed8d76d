"""Any argument of any public function, replaced by anything: a result that is right, or a TypeError or ValueError that names it.

"Right" is what the same call gives for the plain Python value that the odd one stands for: np.int64(4) samples are those of 4.
"""

import dataclasses
import functools
import re

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies

import bespoke_jax as bj
from bespoke_jax.run.scores import score

KEY = jax.random.key(0)
FLOW = bj.analytic.mixture([[-1.0, 0.5], [1.0, 0.0]], std=0.3)
X0 = jax.random.normal(KEY, (4, 2))
THETA = bj.init_theta("rk1", 3)
X1 = bj.solve(FLOW, THETA, X0)
GENERAL = dataclasses.replace(bj.classic.euler(3), c=jnp.zeros(4), xi=jnp.ones(2))
SCORES = {"mine": {3: score("mine", np.ones(2), 2.0)}}
KNOTS = dict(t=[0.0, 0.5, 1.0], dt=[1.0, 1.0], s=[1.0, 1.0, 1.0], ds=[0.0, 0.0])
STAGES = (bj.Stage("endpoint", 1, batch_size=4),)
RECIPE = bj.Recipe(stages=STAGES, num_paths=4, num_validation=4, rtol=1e-3, atol=1e-3, choose_start=False)


def conditional(params, t, x):
    return params["condition"] - x


CONDITIONAL = bj.Flow(conditional, {"condition": jnp.zeros(2)}, (2,))


@functools.cache
def paths():
    return bj.ground_truth(FLOW, X0)


# Public function -> (the function, arguments that are fine). A name in an error may be another's that says the same.
CALLS = {
    "Flow": (
        bj.Flow,
        dict(velocity=conditional, params={}, event_shape=(2,), scheduler=None, source=None, weights=None),
    ),
    "from_prediction": (
        bj.Flow.from_prediction,
        dict(
            network=conditional,
            params={},
            event_shape=(2,),
            scheduler=bj.schedulers.CondOT(),
            prediction="data",
            time_margin=0.01,
            time="noise_at_1",
            per_sample_time=False,
            source=None,
            weights=None,
        ),
    ),
    "call": (FLOW, dict(t=0.5, x=X0)),
    "noise": (FLOW.noise, dict(key=KEY, dtype=jnp.float32)),
    "given": (bj.given, dict(flow=CONDITIONAL, conditions=jnp.zeros((3, 2)), batched=False)),
    "guided": (bj.guided, dict(flow=CONDITIONAL, guidance_scale=0.5, unconditional=jnp.ones(2))),
    "on_paths": (bj.LearnedCalls.on_paths, dict(flow=bj.guided(CONDITIONAL, 0.5), num_calls=4, key=KEY)),
    "init_theta": (bj.init_theta, dict(base="rk2", num_steps=3, dtype=jnp.float32)),
    "theta_from_knots": (functools.partial(bj.theta_from_knots, "rk1"), KNOTS),
    "step_theta": (bj.step_theta, dict(theta=THETA, i=1, x=X0, u=FLOW)),
    "solve": (bj.solve, dict(flow=FLOW, solver=THETA, x0=X0)),
    "sample": (bj.sample, dict(params=FLOW, theta=THETA, key=KEY, num_samples=4, dtype=jnp.float32)),
    "ground_truth": (
        bj.ground_truth,
        dict(flow=FLOW, x0=X0, rtol=1e-3, atol=1e-3, batch_size=4, max_steps=100, ends_only=True),
    ),
    "invert": (bj.invert, dict(flow=FLOW, solver=THETA, x1=X1, rtol=1e-3, max_iterations=9, batch_size=4)),
    "log_likelihood": (
        bj.log_likelihood,
        dict(flow=FLOW, solver=THETA, x1=X1, key=KEY, num_probes=2, rtol=1e-3, batch_size=4),
    ),
    "progress_bar": (bj.progress_bar, dict(callback=None, label="mine", disable=True)),
    "of_ends": (bj.Paths.of_ends, dict(flow=FLOW, x0=X0, x1=X0, evaluations=3)),
    "at": (lambda t: paths().at(t), dict(t=0.5)),
    "take": (lambda indices: paths().take(indices), dict(indices=np.array([0, 1]))),
    "Stage": (
        bj.Stage,
        dict(loss="endpoint", num_iterations=3, optimizer=bj.SMALL_STEPS, batch_size=4, chunk_size=4, probes=1)
        | dict(keep_activations=False, validate_every=2),
    ),
    "LevenbergMarquardt": (
        bj.LevenbergMarquardt,
        dict(
            damping=1e-2,
            scaling=0.5,
            tries=2,
            grow=2.0,
            trust=0.5,
            shrink=2.0,
            limit=1.0,
            averaging=bj.Forgetting(),
        ),
    ),
    "Forgetting": (bj.Forgetting, dict(matrix=0.5, gradient=0.5)),
    "PowerLaw": (bj.PowerLaw, dict(matrix=2.0, gradient=3.0)),
    "Recent": (bj.Recent, dict(batches=8, factor=0.9)),
    "RmseBound": (bj.losses.RmseBound, dict(lipschitz=1.0)),
    "frugal": (bj.frugal, dict(budget=20_000, choose_start=False)),
    "mean_rmse": (bj.mean_rmse, dict(num_iterations=3, batch_size=4, num_paths=4, num_validation=4)),
    "paper": (bj.paper, dict(num_iterations=3, learning_rate=1e-3, batch_size=4)),
    "Recipe": (
        bj.Recipe,
        dict(stages=STAGES, num_paths=4, num_validation=4, rtol=1e-3, atol=1e-3, reference=None, checked_by=None)
        | dict(choose_start=False, num_start_paths=4, best_by="psnr", data_range=2.0, budget=None),
    ),
    "fit": (
        bj.fit,
        dict(flow=FLOW, solver=THETA, key=KEY, recipe=RECIPE)
        | dict(paths=None, validation=None, state=None, callback=None),
    ),
    "check_solver": (
        bj.check_solver,
        dict(
            flow=FLOW, solver=THETA, key=KEY, num_paths=4, others={}, rtol=1e-3, atol=1e-3, data_range=2.0, batch_size=4
        ),
    ),
    "rmse": (bj.metrics.rmse, dict(x=X0, y=X0 + 1, event_ndim=1)),
    "psnr": (bj.metrics.psnr, dict(error=0.1, data_range=2.0)),
    "mixture": (bj.analytic.mixture, dict(means=[[0.0, 1.0]], std=0.5, weights=[1.0], scheduler=None)),
    "unipc": (bj.classic.unipc, dict(nfe=6, scheduler=bj.schedulers.CondOT(), order=2, grid="uniform")),
    "EDM": (bj.schedulers.EDM, dict(sigma_min=0.01, sigma_max=10.0, rho=7.0)),
    "begin": (GENERAL.begin, dict(x0=X0)),
    "step": (GENERAL.step, dict(i=1, carry=GENERAL.begin(X0), u=X0)),
    "times": (GENERAL.times, dict(convention="sigma", scheduler=bj.schedulers.EDM())),
    "error_against_calls": (
        bj.plots.error_against_calls,
        dict(scores=SCORES, axes=None, measure="rmse", looks={"mine": {}}, bands=["mine"]),
    ),
    "coefficients": (bj.plots.coefficients, dict(solver=THETA, figure=None)),
    "paths": (bj.plots.paths, dict(states={"mine": jnp.stack([X0, X1])}, axes=None)),
    "image_errors": (
        bj.plots.image_errors,
        dict(rows={"mine": np.zeros((1, 4, 4, 1))}, truth=np.ones((1, 4, 4, 1)), figure=None, limit=0.5),
    ),
    "export_code": (
        bj.export_code,
        dict(solver=THETA, to="diffusers", scheduler=bj.schedulers.Cosine(), prediction="v")
        | dict(betas=[0.1, 0.2], time_range=(0.0, 1.0)),
    ),
    "TableSolver": (bj.adapters.diffrax.TableSolver, dict(solver=THETA, noise_at=1)),
    "TableScheduler": (
        bj.adapters.scheduler.TableScheduler,
        dict(solver=THETA, convention="noise_at_1", scheduler=bj.schedulers.CondOT(), prediction="data"),
    ),
    "equinox": (
        bj.adapters.equinox.flow,
        dict(
            module=lambda t, x: -x, event_shape=(2,), scheduler=None, prediction="velocity", call=None, condition=None
        ),
    ),
    "Distance": (bj.losses.Distance, dict(function=None, features=jnp.tanh, average="log", name="mine")),
}

ODD = {
    "None": None,
    "minus one": -1,
    "zero": 0,
    "two": 2,
    "a half": 0.5,
    "2.7": 2.7,
    "NaN": float("nan"),
    "infinity": float("inf"),
    "a complex number": 1j,
    "huge": 2**70,
    "True": True,
    "numpy integer": np.int64(2),
    "numpy float": np.float32(0.5),
    "a text": "rk1",
    "a digit": "2",
    "bytes": b"2",
    "an empty list": [],
    "a list of texts": ["a"],
    "a dict": {"a": 1},
    "an empty tuple": (),
    "a tuple": (2,),
    "a function": len,
    "an object": object(),
    "a type": int,
    "integers": np.arange(8).reshape(4, 2),
    "another shape": np.ones((3, 5), np.float32),
    "complex": np.ones((4, 2), np.complex64),
    "NaNs": np.full((4, 2), np.nan, np.float32),
    "texts": np.array(["a", "b"]),
    "objects": np.array([None, 1], object),
    "a key": jax.random.key(1),
    "another flow": bj.analytic.gaussian([0.0, 0.0, 0.0], 0.5),
    "a table": bj.classic.euler(3),
    "a broken table": bj.SolverTable(jnp.zeros(4), jnp.ones(3), jnp.zeros((3, 5))),
}
# An error may name what the argument disagrees with.
ALSO = {
    "flow": ("x0", "x1", "x"),
    "u": ("x",),
    "network": ("velocity",),
    "params": ("flow",),
    "x": ("rmse",),
    "y": ("rmse",),
    "means": ("weights", "std"),
    "a": ("b",),
    "module": ("x", "velocity"),
}
# Numbers that are not finite are what comes of them.
# What they return holds what they were given.
OF_THE_CALLER = ("Flow", "from_prediction", "given", "guided", "fit", "equinox")
# Functions of the caller's, which raise what they like.
CALLED = ("u", "callback", "unconditional", "guidance_scale", "call")
NOT_FINITE = ("x0", "x", "y", "t", "u", "error")


def finite(result) -> bool:
    leaves = [
        leaf for leaf in jax.tree.leaves(result) if hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)
    ]
    return all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in leaves)


@pytest.mark.parametrize("examples", [25, pytest.param(120, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.filterwarnings("ignore::UserWarning")  # what may be right is warned of
def test_a_right_result_or_an_error_that_names_the_argument(name, examples):
    function, fine = CALLS[name]

    @hypothesis.settings(max_examples=examples)
    @hypothesis.given(argument=strategies.sampled_from(sorted(fine)), odd=strategies.sampled_from(sorted(ODD)))
    def check(argument, odd):
        arguments = fine | {argument: ODD[odd]}
        hypothesis.assume(not (argument in CALLED and callable(ODD[odd])))
        try:
            result = function(**arguments)
        except (TypeError, ValueError) as error:
            names = (argument, *ALSO.get(argument, ()))
            named = any(re.search(rf"\b{re.escape(n)}\b", str(error)) for n in names)
            assert named, f"{name}({argument}={odd}): {error!r}"
        except (bj.FitError, FloatingPointError, RuntimeError) as error:
            assert argument in ("flow", "x0", "rtol", "atol", "max_steps", "u"), f"{name}({argument}={odd}): {error!r}"
        else:
            if argument not in NOT_FINITE and name not in OF_THE_CALLER:
                assert finite(result), f"{name}({argument}={odd}) gave {result}"

    check()


def test_numbers_of_numpy_are_those_of_python():
    one, other = (bj.sample(FLOW, THETA, KEY, num_samples=count) for count in (4, np.int64(4)))
    np.testing.assert_array_equal(one, other)
    assert bj.init_theta("rk2", np.int32(3)).nfe == bj.init_theta("rk2", 3).nfe
    assert bj.Flow(conditional, {}, (np.int64(2),)).event_shape == (2,)
