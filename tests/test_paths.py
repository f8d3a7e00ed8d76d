"""Paths: checks where they enter, and of the times and indices at which they are read."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bespoke_jax as bj
from bespoke_jax.fitting import gauss_newton
from bespoke_jax.run.paths import samples

KEY = jax.random.key(0)
FLOW = bj.analytic.gaussian([1.0, -1.0], 0.3)
THETA = bj.init_theta("rk1", 3)


@pytest.fixture(scope="module")
def paths():
    return bj.ground_truth(FLOW, FLOW.noise(KEY, (8,)))


@pytest.mark.parametrize("t", [-0.1, 1.1, 2.0, np.nan, [0.5, 1.5]])
def test_times_outside_are_refused(paths, t):
    for read in (paths.at, paths.velocity):
        with pytest.raises(ValueError, match=r"^t: wanted (times from 0 to 1|finite numbers)"):
            read(t)


def test_the_last_time_is_the_end(paths):
    np.testing.assert_allclose(paths.at(1.0), paths.x1, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(paths.at)(1.0), paths.x1, rtol=1e-6)


@pytest.mark.parametrize("indices", [[8], [-9], [0, 100]])
def test_indices_out_of_range(paths, indices):
    with pytest.raises(ValueError, match=r"^indices: wanted those of 8 paths, got (8|-9|100)\."):
        paths.take(np.array(indices))


@pytest.mark.parametrize("indices", [3, np.array([0.5]), np.ones(8, bool), [[1]]])
def test_indices_of_another_kind(paths, indices):
    with pytest.raises(TypeError, match=r"^indices: wanted integers"):
        paths.take(np.asarray(indices))


def test_negative_indices_count_from_the_end(paths):
    np.testing.assert_array_equal(paths.take(np.array([-1])).x1, paths.x1[-1:])


def test_ends_that_are_not_finite(paths):
    with pytest.raises(ValueError, match=r"^x1: wanted finite numbers, got NaN or infinity in 1 of 8 .* number 3"):
        bj.Paths.of_ends(FLOW, paths.x0, paths.x1.at[3, 0].set(jnp.inf))
    with pytest.raises(ValueError, match=r"^evaluations: "):
        bj.Paths.of_ends(FLOW, paths.x0, paths.x1, evaluations=-1)


@pytest.mark.parametrize("shape", [(3,), (2, 1), *(pytest.param(s, marks=pytest.mark.slow) for s in ((1, 2), (4,)))])
def test_every_loss_refuses_paths_of_another_event_shape(shape):
    other = bj.analytic.gaussian(jnp.zeros(shape), 0.3)
    theirs = bj.ground_truth(other, other.noise(KEY, (8,)))
    for loss in map(bj.losses.named, bj.losses.LOSSES):
        with pytest.raises(ValueError, match=r"^paths: wanted paths of the event shape \(2,\)"):
            loss(FLOW, THETA, theirs)
        with pytest.raises(ValueError, match=r"^paths: wanted paths of the event shape"):
            gauss_newton.linearise(loss, FLOW, THETA, theirs, KEY)
    for name in ("paths", "validation"):
        with pytest.raises(ValueError, match=rf"^{name}: wanted paths of the event shape"):
            bj.fit(FLOW, THETA, KEY, **{name: theirs})


# --- Conditions. ---

WEIGHT = jax.random.normal(jax.random.key(7), (5, 2))
CONDITIONS = jax.random.normal(jax.random.key(8), (8, 3))


def velocity(params, t, x):
    condition = jnp.broadcast_to(params["condition"], (len(x), 3))
    return jnp.tanh(jnp.concatenate([x, condition], -1) @ WEIGHT) - x


ONE = bj.Flow(velocity, {"condition": CONDITIONS[0]}, (2,))
MANY = bj.given(ONE, CONDITIONS)


def test_paths_without_the_conditions_of_a_given_flow_are_refused():
    x0 = ONE.noise(KEY, (8,))
    ends = bj.solve(MANY, bj.classic.rk4(40), x0)
    without, with_them = bj.Paths.of_ends(ONE, x0, ends), bj.Paths.of_ends(MANY, x0, ends)
    with pytest.raises(ValueError, match=r"^paths: wanted a condition for each path"):
        bj.fit(MANY, THETA, KEY, paths=without)
    with pytest.raises(ValueError, match=r"^paths: wanted a condition for each path"):
        bj.losses.endpoint(MANY, THETA, without)
    # With conditions, the loss evaluates each sample under its own.
    alone = [
        bj.losses.rmse(
            ONE.__class__(velocity, {"condition": c}, (2,)),
            THETA,
            bj.Paths.of_ends(ONE, x0[i : i + 1], ends[i : i + 1]),
        )
        for i, c in enumerate(CONDITIONS)
    ]
    np.testing.assert_allclose(bj.losses.rmse(MANY, THETA, with_them), np.mean(alone), rtol=1e-5)
    np.testing.assert_allclose(bj.losses.rmse(ONE, THETA, with_them), np.mean(alone), rtol=1e-5)


def test_paths_with_conditions_for_a_flow_without():
    x0 = ONE.noise(KEY, (8,))
    theirs = bj.Paths.of_ends(MANY, x0, x0)
    with pytest.raises(ValueError, match=r"^paths: wanted paths without conditions"):
        samples(FLOW, theirs)
    other = bj.Flow(lambda params, t, x: -x, {"condition": jnp.zeros(4)}, (2,))
    with pytest.raises(ValueError, match=r"^paths: wanted conditions like the flow's, \(4,\), got \(3,\)"):
        samples(other, theirs)
