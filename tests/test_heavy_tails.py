"""Where a few samples rule the mean RMSE: what the default loss is worth, `fit` says so, `mean_rmse` is the recipe for it."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bespoke_jax as bj

KEY = jax.random.key(0)
MEANS = [[-1.0, 0.0], [1.0, 0.5], [0.0, -1.0]]
START = bj.init_theta("rk1", 4)


@pytest.fixture(scope="module")
def parting():
    """Clusters so narrow that paths from neighbouring noises part."""
    return bj.analytic.mixture(MEANS, 0.03)


def fitted(flow, recipe, key=KEY):
    """(the result of a fit, the warnings of tails that it issued)."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = bj.fit(flow, START, key, recipe)
    return result, [str(warning.message) for warning in caught if "mean_rmse()" in str(warning.message)]


def mean_rmse(flow, solver, paths):
    return float(jnp.mean(bj.metrics.rmse(bj.adjoint.end_points(flow, solver, paths.x0), paths.x1, 1)))


@pytest.mark.slow
def test_a_fit_says_that_a_few_samples_rule_the_mean_rmse_and_the_recipe_for_it_lowers_it(parting):
    usual, said = fitted(parting, bj.Recipe(), jax.random.key(1))  # some of whose held-out paths are bad
    assert len(said) == 1
    assert f"psnr is {usual.best['psnr']:.1f} dB and mean_psnr {usual.best['mean_psnr']:.1f}" in said[0]
    by_mean, said = fitted(parting, bj.mean_rmse(32, num_paths=512, num_validation=256))
    assert not said, "the remedy does not advise itself"
    fresh = bj.ground_truth(parting, parting.noise(jax.random.key(9), (2048,)), ends_only=True)
    again, _ = fitted(parting, bj.Recipe(), jax.random.key(2))  # one fit's mean RMSE is a matter of rounding
    of_usual = np.mean([mean_rmse(parting, each.theta, fresh) for each in (usual, again)])
    assert mean_rmse(parting, by_mean.theta, fresh) < 0.8 * of_usual


def test_a_fit_whose_samples_are_alike_says_nothing():
    result, said = fitted(bj.analytic.mixture(MEANS, 0.5), bj.Recipe())
    assert not said and result.best["mean_psnr"] - result.best["psnr"] < 10


def test_a_fit_that_only_got_worse_says_so():
    flow, start = bj.analytic.mixture(MEANS, 0.3), bj.LearnedTable.of(bj.classic.ipndm(8, order=3))
    forgetful = bj.LevenbergMarquardt(damping=1e-9, tries=0, averaging=bj.Forgetting(matrix=0.0, gradient=0.0))
    stage = bj.Stage("endpoint", 6, forgetful, batch_size=2, validate_every=2)
    recipe = bj.Recipe(stages=(stage,), num_paths=16, num_validation=32, choose_start=False)
    with pytest.warns(UserWarning, match=r"fit: no update improved on the start, whose mean_psnr is .* Larger batches"):
        result = bj.fit(flow, start, KEY, recipe)
    assert result.best["iteration"] == 0 and not np.any(result.theta.raw)


def test_recipes_take_the_range_of_the_data():
    assert [recipe.data_range for recipe in (bj.frugal(data_range=80.0), bj.mean_rmse(data_range=80.0))] == [80.0, 80.0]
    assert bj.paper(data_range=80.0).data_range == 80.0


@pytest.mark.parametrize("name", ["num_iterations", "batch_size", "num_paths", "num_validation"])
def test_a_bad_count_is_named(name):
    with pytest.raises(ValueError, match=f"{name}: wanted"):
        bj.mean_rmse(**{name: 0})


@pytest.mark.slow
def test_the_default_ends_above_a_fit_of_the_logarithm_in_both_figures():
    random = np.random.default_rng(9)  # flow 9 of benchmarks.random_flows
    means, std = random.uniform(-1, 1, (8, 2)), np.exp(random.uniform(np.log(0.05), np.log(0.5), 8))
    vp = bj.schedulers.VariancePreserving()
    flow = bj.analytic.mixture(means, std, random.dirichlet(np.ones(8)), vp)
    paths, held_out, fresh = (
        bj.ground_truth(flow, flow.noise(jax.random.key(seed), (num,)), ends_only=True)
        for seed, num in ((1, 128), (2, 64), (3, 1024))
    )
    errors = []
    for recipe in (bj.Recipe(), bj.Recipe(stages=(bj.Stage("endpoint"),))):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theta = bj.fit(flow, bj.init_theta("curve", 4), KEY, recipe, paths=paths, validation=held_out).theta
        errors.append(bj.metrics.rmse(bj.adjoint.end_points(flow, theta, fresh.x0), fresh.x1, 1))
    default, logarithm = errors
    assert jnp.mean(default) < 0.9 * jnp.mean(logarithm)
    assert jnp.mean(jnp.log(default)) < jnp.mean(jnp.log(logarithm)) + np.log(0.95)
