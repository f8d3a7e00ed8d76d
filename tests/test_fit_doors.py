"""What a fit refuses before any work, and what it says of its own truth: the right value, or an error that names the argument."""

import dataclasses
import re
import sys
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bespoke_jax as bj
from bespoke_jax.fitting import memory
from bespoke_jax.fitting.starts import start_groups

fit_module = sys.modules["bespoke_jax.fitting.fit"]
data_module = sys.modules["bespoke_jax.fitting.data"]

KEY = jax.random.key(0)
FLOW = bj.analytic.mixture([[-1.0, 0.0], [1.0, 0.5], [0.0, -1.0]], 0.3)
START = bj.init_theta("rk1", 3)
FEW = bj.Recipe(stages=(bj.Stage("endpoint", 4),), num_paths=16, num_validation=16)


def few(**changes):
    """`FEW` with other fields."""
    return dataclasses.replace(FEW, **changes)


@pytest.fixture(scope="module")
def paths():
    return bj.ground_truth(FLOW, FLOW.noise(jax.random.key(1), (16,)))


@pytest.fixture
def no_work(monkeypatch):
    """Nothing may be solved."""
    for module, name in ((data_module, "ground_truth"), (data_module, "check_velocity"), (fit_module, "choose")):
        monkeypatch.setattr(module, name, lambda *_, name=name, **__: pytest.fail(f"{name} was called"))


@pytest.mark.parametrize(
    "change, error, message",
    [
        (dict(flow=3), TypeError, "flow: wanted a bespoke_jax.Flow, got int"),
        (
            dict(solver=bj.classic.euler(3)),
            TypeError,
            r"solver: wanted what .* gives, or .*LearnedTable\.of\(table\), got",
        ),
        (dict(solver=START.with_raw(jnp.full(11, jnp.nan))), ValueError, r"solver\.raw: wanted finite numbers"),
        (dict(solver=START.with_raw(jnp.zeros(7))), ValueError, r"solver\.raw"),
        (dict(key=0), TypeError, "key: wanted one JAX random key"),
        (dict(recipe=(bj.Stage("endpoint"),)), TypeError, "recipe: wanted a bespoke_jax.Recipe, got tuple"),
        (dict(callback=3), TypeError, "callback: wanted a function"),
        (dict(paths=[1, 2]), TypeError, r"paths: wanted bespoke_jax\.Paths"),
        (dict(validation="held out"), TypeError, r"validation: wanted bespoke_jax\.Paths"),
        (dict(solver=bj.init_theta("table", 3), recipe=bj.paper(2)), ValueError, r"Stage\.loss: wanted a loss of ends"),
        (dict(recipe=bj.frugal(100)), ValueError, r"budget: wanted at least \d+ for .* got 100"),
        (dict(state=3), TypeError, "state: wanted the FitState"),
    ],
)
def test_bad_arguments_are_named_before_any_work(no_work, change, error, message):
    arguments = dict(flow=FLOW, solver=START, key=KEY, recipe=FEW) | change
    with pytest.raises(error, match=f"^{message}"):
        bj.fit(**arguments)


@pytest.mark.parametrize(
    "change, error, message",
    [
        (dict(stages=()), TypeError, "stages: wanted a non-empty tuple of Stage"),
        (dict(stages=bj.Stage("endpoint")), TypeError, "stages: wanted a non-empty tuple of Stage"),
        (dict(num_paths=0), ValueError, "num_paths: wanted an integer >= 1, got 0"),
        (dict(num_validation=2.0), ValueError, "num_validation: wanted an integer >= 1, got 2.0"),
        (dict(rtol=-1e-5), ValueError, "rtol: wanted a finite number > 0"),
        (dict(atol=np.nan), ValueError, "atol: wanted a finite number > 0"),
        (dict(choose_start="no"), ValueError, "choose_start: wanted True or False"),
        (dict(num_start_paths=-1), ValueError, "num_start_paths: wanted an integer >= 1"),
        (dict(best_by="rmse"), ValueError, "best_by: wanted one of"),
        (dict(data_range=0.0), ValueError, "data_range: wanted a finite number > 0"),
        (dict(checked_by=4), TypeError, "checked_by: wanted a SolverTable"),
        (dict(budget=9000), ValueError, "budget: wanted one stage, of Levenberg-Marquardt"),
    ],
)
def test_bad_fields_of_a_recipe_are_named(change, error, message):
    stages = dict(stages=(bj.Stage("rmse_bound", 1),))
    with pytest.raises(error, match=rf"^Recipe\.{message}"):
        bj.Recipe(**stages | change)


def test_a_ladder_checks_before_any_work_and_takes_generators(no_work):
    with pytest.raises(TypeError, match="best_bye"):
        bj.fit_ladder(FLOW, [START], KEY, best_bye="psnr")
    with pytest.raises(TypeError, match=r"recipe: wanted a bespoke_jax\.Recipe"):
        bj.fit_ladder(FLOW, [START], KEY, "psnr")
    with pytest.raises(ValueError, match="recipe: wanted one without a budget"):
        bj.fit_ladder(FLOW, [START], KEY, bj.frugal())
    with pytest.raises(ValueError, match="solvers: wanted one solver or more"):
        bj.fit_ladder(FLOW, (theta for theta in ()), KEY)
    for nothing in (KEY, jnp.float32(4), START, "rk2"):  # JAX's arrays have an iterator even where it raises
        with pytest.raises(TypeError, match=r"^solvers: wanted a list of solvers, got "):
            bj.fit_ladder(FLOW, nothing, KEY)


def test_a_ladder_of_a_generator_is_that_of_its_list():
    many, listed = (
        bj.fit_ladder(FLOW, thetas, KEY, FEW)
        for thetas in ((bj.init_theta("rk1", n) for n in (2, 3)), [bj.init_theta("rk1", n) for n in (2, 3)])
    )
    assert [result.theta.nfe for result in many] == [2, 3]
    for one, other in zip(many, listed, strict=True):
        np.testing.assert_array_equal(one.theta.raw, other.theta.raw)


@pytest.mark.parametrize("name", ["paths", "validation"])
def test_a_sample_that_is_not_finite_is_named(no_work, paths, name):
    states = paths.states.at[7, -1, 0].set(jnp.nan)
    broken = bj.Paths(paths.times, states, paths.velocities, paths.middles, paths.evaluations, (16,))
    with pytest.raises(
        ValueError, match=rf"^{name}\.states: wanted finite numbers, got NaN or infinity in 1 of 16 .* number 7"
    ):
        bj.fit(FLOW, START, KEY, FEW, **{name: broken})


def test_a_solver_that_is_never_finite_is_no_result(paths):
    # On the true paths all is well; where rk1's first step leads it is not.
    def velocity(params, t, x):
        far = jnp.max(jnp.abs(x), axis=-1, keepdims=True) > 1e-3
        return jnp.where(far & (t > 0), jnp.nan, jnp.full_like(x, 10.0))

    flow = bj.Flow(velocity, None, (2,))
    x0 = jnp.full((16, 2), 0.5)
    ends = bj.Paths.of_ends(flow, x0, x0)
    stages = (bj.Stage(lambda flow, theta, paths: jnp.sum(theta.raw**2), 2, optax.sgd(0.0), validate_every=1),)
    with pytest.raises(bj.FitError, match=r"no theta was finite on all 16 held-out paths\. The velocity is not finite"):
        bj.fit(flow, START, KEY, bj.Recipe(stages=stages, choose_start=False), paths=ends, validation=ends)


# --- States. ---


def test_a_state_of_another_flow_or_other_stages(paths):
    last = bj.fit(FLOW, START, KEY, FEW).state
    other = bj.analytic.mixture([[3.0, 0.0], [1.0, 5.0]], 0.1)
    with pytest.raises(ValueError, match="state: wanted one of a fit to this flow and these paths"):
        bj.fit(other, START, KEY, FEW, state=last)
    with pytest.raises(ValueError, match=r"state: wanted 1 optimisers, .* the state is of other stages"):
        bj.fit(FLOW, START, KEY, few(stages=(bj.Stage("endpoint", 40),)), state=last)
    fewer = few(stages=(bj.Stage("endpoint", 1),))  # as many looks, for fewer updates
    with pytest.raises(
        ValueError, match=r"state: wanted 1 optimisers, 2 looks and at most 1 iterations, got 1, 2 and 4"
    ):
        bj.fit(FLOW, START, KEY, fewer, state=last)
    with pytest.raises(ValueError, match=r"state: wanted looks after \[0, 6\] updates, got looks after \[0, 4\] and 4"):
        bj.fit(FLOW, START, KEY, few(stages=(bj.Stage("endpoint", 6),)), state=last)
    with pytest.raises(ValueError, match=r"state: wanted one of rk1 with 4 steps, .* got one of rk1 with 3 steps"):
        bj.fit(FLOW, bj.init_theta("rk1", 4), KEY, FEW, state=last)
    np.testing.assert_array_equal(bj.fit(FLOW, START, KEY, FEW, state=last).theta.raw, last.best.raw)


# --- Options of stages. ---


@pytest.mark.parametrize(
    "options, name",
    [
        (dict(damping=np.nan), "damping"),
        (dict(damping=0.0), "damping"),
        (dict(tries=-1), "tries"),
        (dict(tries=1.5), "tries"),
        (dict(limit=0.0), "limit"),
        (dict(limit=-1.0), "limit"),
        (dict(scaling=np.nan), "scaling"),
        (dict(scaling=2.0), "scaling"),
        (dict(grow=0.5), "grow"),
        (dict(shrink=0.0), "shrink"),
        (dict(trust=-0.1), "trust"),
        (dict(averaging=3.0), "averaging"),
    ],
)
def test_levenberg_marquardt_looks_at_its_options(options, name):
    with pytest.raises((TypeError, ValueError), match=rf"^LevenbergMarquardt\.{name}: wanted"):
        bj.LevenbergMarquardt(**options)


@pytest.mark.parametrize(
    "kind, options",
    [
        (bj.Forgetting, dict(matrix=1.5)),
        (bj.Forgetting, dict(gradient=np.nan)),
        (bj.PowerLaw, dict(matrix=2.0, gradient=-1.0)),
        (bj.Recent, dict(batches=0)),
        (bj.Recent, dict(factor=1.5)),
        (bj.losses.RmseBound, dict(lipschitz=-1.0)),
        (bj.losses.RmseBound, dict(lipschitz=np.inf)),
        (bj.Stage, dict(keep_activations=1)),
    ],
)
def test_averages_losses_and_stages_look_at_their_options(kind, options):
    with pytest.raises(ValueError, match=rf"^{kind.__name__}\.{list(options)[-1]}: wanted"):
        kind(**options)


# --- The truth. ---


@pytest.mark.parametrize("scale", [1e-5, *(pytest.param(scale, marks=pytest.mark.slow) for scale in (1.0, 1e3))])
def test_a_fit_serves_data_of_any_scale(scale):
    mean, std = scale * np.array([1.0, -1.0]), 0.3 * scale
    flow = bj.analytic.gaussian(mean, std)
    start = bj.init_theta("rk2", 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a Gaussian is learned as well as float32 allows
        result = bj.fit(flow, start, KEY, bj.Recipe(stages=(bj.Stage("endpoint", 32),)))
    x0 = flow.noise(jax.random.key(3), (64,))
    exact = mean + std * np.asarray(x0, np.float64)
    before, after = (np.sqrt(np.mean((bj.solve(flow, s, x0) - exact) ** 2)) / scale for s in (start, result.theta))
    assert after < 0.05 < before or after < before / 4


def test_what_the_truth_is_worth_is_measured(paths):
    coarse = bj.fit(FLOW, START, KEY, few(rtol=1e-2)).truth
    fine = bj.fit(FLOW, START, KEY, FEW).truth
    assert 20 < coarse.mean_psnr < 70 and fine.mean_psnr > 95
    x0 = FLOW.noise(jax.random.fold_in(KEY, 1), (16,))
    loose, better = (bj.ground_truth(FLOW, x0, rtol).x1 for rtol in (1e-2, 1e-7))
    wanted = np.mean(bj.metrics.psnr(bj.metrics.rmse(loose, better, 1)))
    assert coarse.mean_psnr == pytest.approx(wanted, abs=1.0)


def test_a_solver_as_good_as_its_truth_is_warned_of():
    flow = bj.analytic.gaussian([1.0, -1.0], 0.3)
    with pytest.warns(
        UserWarning, match="fit: the solver is .* dB from the true paths, which are .* dB from better ones"
    ):
        bj.fit(flow, bj.init_theta("rk2", 4), KEY, bj.Recipe(rtol=1e-2, stages=(bj.Stage("endpoint", 24),)))


def test_only_ends_are_kept_where_they_suffice(monkeypatch):
    kept = []

    def spy(*args, **options):
        paths = bj.ground_truth(*args, **options)
        kept.append(paths.is_of_ends)
        return paths

    monkeypatch.setattr(data_module, "ground_truth", spy)
    ends = bj.fit(FLOW, START, KEY, FEW)
    whole = bj.fit(FLOW, START, KEY, few(choose_start=False, stages=(bj.Stage("local", 1), *FEW.stages)))
    assert kept == [True, True, False, False] and whole.history[0]["rmse"] > 0
    paths, validation = (
        bj.ground_truth(FLOW, FLOW.noise(jax.random.fold_in(KEY, purpose), (16,))) for purpose in (0, 1)
    )
    np.testing.assert_array_equal(
        ends.theta.raw, bj.fit(FLOW, START, KEY, FEW, paths=paths, validation=validation).theta.raw
    )


def test_what_does_not_fit_into_memory_is_said_before_any_work(no_work, monkeypatch):
    monkeypatch.setattr(memory, "available", lambda flow: 24 * 2**30)
    large = bj.Flow(lambda params, t, x: -x, None, (1024, 1024, 3))
    whole = bj.paper(2)
    with pytest.raises(
        ValueError,
        match=r"^num_paths: wanted .* 24 GiB, got 162 GiB .* Lower .* or use a loss of ends",
    ):
        bj.fit(large, START, KEY, whole)
    with pytest.raises(ValueError, match=r"^Stage\.chunk_size: .* Lower Stage\.chunk_size\.$"):
        bj.fit(
            large,
            bj.init_theta("table", 10),
            KEY,
            bj.Recipe(num_paths=256, stages=(bj.Stage("endpoint", batch_size=256, chunk_size=256),)),
        )


def test_a_budget_of_any_size_is_divided_at_once():
    start = time.process_time()
    found = [bj.frugal(budget).resolve(FLOW, START).stages[0].num_iterations for budget in (10_000, 10**6, 10**12)]
    assert found == sorted(found) and time.process_time() - start < 60
    # One iteration more costs more than the budget.
    for budget, iterations in zip((10_000, 10**6), found, strict=False):
        spent = [_cost(bj.frugal(budget).resolve(FLOW, START), extra) for extra in (0, 1)]
        assert spent[0] <= budget < spent[1] + 40 * 3 and iterations > 1


def _cost(how, extra):
    """Written out once more: choice of a start, held-out and true ends, looks, checks, updates."""
    stage, nfe, reference = how.stages[0], START.nfe, how.reference.nfe
    iterations = stage.num_iterations + extra
    starts = len(start_groups(FLOW, START)[0])
    num_paths = max(8, iterations * 4 // 3)
    looks = 12 * (reference + 5 * nfe)
    return starts * 8 * nfe + looks + 4 * (5 + how.checked_by.nfe) + num_paths * reference + iterations * 4 * nfe * 3


def test_a_state_that_began_elsewhere():
    recipe = few(stages=(bj.Stage("endpoint", 2, batch_size=4),))
    state = bj.fit(FLOW, START, KEY, recipe).state
    with pytest.raises(ValueError, match=r"^state: wanted a start below \d+, got start 999"):
        bj.fit(FLOW, START, KEY, recipe, state=state._replace(start=np.int32(999)))


def test_paths_that_contradict_themselves(no_work, paths):
    changes = {
        "velocities": paths.velocities[:4],
        "middles": paths.middles[:, :1],
        "times": 1 - paths.times,
        "evaluations": paths.evaluations[:3],
        "batch_shape": (3,),
    }
    for field, value in changes.items():
        with pytest.raises(ValueError, match=rf"^paths\.{field}: wanted"):
            bj.fit(FLOW, START, KEY, FEW, paths=dataclasses.replace(paths, **{field: value}))


def test_paths_of_another_flow_are_warned_of(paths):
    other = bj.Paths.of_ends(FLOW, paths.x0, -paths.x1)
    for name in ("paths", "validation"):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            bj.fit(FLOW, START, KEY, few(choose_start=False), **{name: other})
        wanted = rf"{name}: wanted paths of this flow, but they end .* % of the samples' size from where it takes"
        assert any(re.match(wanted, str(warning.message)) for warning in caught)


@pytest.mark.slow
def test_held_out_paths_in_bfloat16():
    x0 = FLOW.noise(KEY, (16,)).astype(jnp.bfloat16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of so coarse paths
        result = bj.fit(FLOW, START, KEY, FEW, validation=bj.ground_truth(FLOW, x0, 1e-2))
    assert np.isfinite(result.history[-1]["rmse"])


@pytest.mark.slow
def test_a_chunk_larger_than_the_batch_needs_no_memory():
    large = bj.Flow(lambda params, t, x: -x, None, (32, 32, 3))
    memory.check_memory(large, 16, True, 16, 4, 1)
    stage = bj.Stage("endpoint", 1, chunk_size=10**6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert (
            bj.fit(large, bj.init_theta("rk2", 2), KEY, bj.Recipe(stages=(stage,), num_paths=8, num_validation=8)).cost
            > 0
        )


def test_a_loss_of_ones_own_that_is_not_finite_is_named():
    def broken(flow, theta, paths):
        return jnp.log(-1.0 - jnp.sum(theta.raw**2))

    with pytest.raises(bj.FitError, match="it is the loss 'broken' itself that is not finite"):
        bj.fit(
            FLOW,
            START,
            KEY,
            few(stages=(bj.Stage(broken, 2, optax.adam(1e-2)),), choose_start=False),
        )
