"""Tables as diffrax solvers."""

import dataclasses

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bespoke_jax as bj
from bespoke_jax.adapters.diffrax import TableSolver

FLOW = bj.analytic.mixture([[1.0, -1.0, 0.3], [0.0, 1.0, -0.5]], std=0.3)
X0 = jax.random.normal(jax.random.key(0), (4, 3))
TERM = diffrax.ODETerm(lambda t, y, args: FLOW(t, y))
GENERAL = dataclasses.replace(
    bj.classic.heun(6), first=jnp.float32(0.9), c=jnp.linspace(-0.5, 1, 7), xi=jnp.array([0.1, -2.0, 1.0])
)


def solved(solver, term=TERM, y0=X0, **times):
    return diffrax.diffeqsolve(term, solver, **(dict(t0=0, t1=1, dt0=1) | times), y0=y0)


@pytest.mark.parametrize("solver", [bj.init_theta("rk2", 3), bj.classic.unipc(5, FLOW.scheduler), GENERAL])
def test_ends_where_solve_does(solver):
    found = solved(TableSolver(solver))
    np.testing.assert_allclose(found.ys[0], bj.solve(FLOW, solver, X0), rtol=1e-5, atol=1e-6)
    assert int(found.stats["num_steps"]) == 1


@pytest.mark.parametrize(
    ("table", "known"),
    [
        pytest.param(bj.classic.euler(1), diffrax.Euler(), marks=pytest.mark.slow),
        (bj.classic.heun(2), diffrax.Heun()),
        (bj.classic.midpoint(2), diffrax.Midpoint()),
    ],
)
def test_one_step_of_a_known_method_is_diffrax_own(table, known):
    np.testing.assert_allclose(solved(TableSolver(table)).ys, solved(known).ys, rtol=1e-5, atol=1e-6)


def test_noise_at_1_runs_backwards_in_its_time():
    reversed_term = diffrax.ODETerm(lambda s, y, args: -FLOW(1 - s, y))
    found = solved(TableSolver(GENERAL, noise_at=1), reversed_term, t0=1, t1=0, dt0=-1)
    np.testing.assert_allclose(found.ys[0], bj.solve(FLOW, GENERAL, X0), rtol=1e-5, atol=1e-6)


def test_trees_vmap_and_gradients():
    solver = TableSolver(bj.classic.rk4(4))
    term = diffrax.ODETerm(lambda t, y, args: dict(a=FLOW(t, y["a"]), b=-y["b"] * args))

    def end(x, scale):
        return diffrax.diffeqsolve(term, solver, 0, 1, 1, dict(a=x, b=jnp.float32(1.0)), scale).ys

    found = jax.vmap(end, in_axes=(0, None))(X0, jnp.float32(0.5))
    np.testing.assert_allclose(found["a"][:, 0], bj.solve(FLOW, solver.table, X0), rtol=1e-5, atol=1e-6)
    # One step of RK4 is exp(-z) to fourth order, and so is its derivative's to third.
    series = np.polynomial.Polynomial([1, -1, 1 / 2, -1 / 6, 1 / 24])
    np.testing.assert_allclose(found["b"], series(0.5), rtol=1e-5)
    slope = jax.grad(lambda scale: end(X0[0], scale)["b"][0])(jnp.float32(0.5))
    np.testing.assert_allclose(slope, series.deriv()(0.5), rtol=1e-5)


def test_saved_ends_are_the_ends_and_nothing_between():
    ends = diffrax.diffeqsolve(TERM, TableSolver(GENERAL), 0, 1, 1, X0, saveat=diffrax.SaveAt(ts=[0.0, 1.0])).ys
    np.testing.assert_allclose(ends, jnp.stack([X0, bj.solve(FLOW, GENERAL, X0)]), rtol=1e-5, atol=1e-6)
    with pytest.raises(RuntimeError, match="saveat"):
        diffrax.diffeqsolve(TERM, TableSolver(GENERAL), 0, 1, 1, X0, saveat=diffrax.SaveAt(ts=[0.5, 1.0]))


@pytest.mark.parametrize(
    ("noise_at", "times"),
    [
        (0, dict(dt0=0.5)),
        (1, {}),
        *(
            pytest.param(0, times, marks=pytest.mark.slow)
            for times in (dict(t0=0.1, dt0=0.9), dict(t0=1, t1=0, dt0=-1), dict(t1=2, dt0=2))
        ),
    ],
)
def test_anything_but_one_step_is_refused(noise_at, times):
    with pytest.raises(RuntimeError, match="TableSolver: wanted one step from noise to data"):
        solved(TableSolver(bj.classic.euler(2), noise_at), **times)


def test_adaptive_steps_are_refused():
    with pytest.raises(RuntimeError, match="error estimate"):
        diffrax.diffeqsolve(
            TERM, TableSolver(GENERAL), 0, 1, 1, X0, stepsize_controller=diffrax.PIDController(rtol=1e-3, atol=1e-3)
        )


def test_solvers_with_equal_numbers_are_equal():
    one, same, other = (TableSolver(bj.classic.rk4(n)) for n in (4, 4, 8))
    assert one == same and hash(one) == hash(same) and one != other and one != TableSolver(bj.classic.rk4(4), 1)
    assert len({one, same, other}) == 2 and one != 3


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (dict(solver=3), TypeError, "solver: wanted a learned solver"),
        (
            dict(solver=bj.by_call(bj.classic.euler(2), 1.5)),
            ValueError,
            "solver: wanted one that evaluates one velocity",
        ),
        (dict(solver=bj.classic.euler(2), noise_at=0.5), ValueError, "noise_at"),
    ],
)
def test_what_is_wrong_is_named(arguments, error, words):
    with pytest.raises(error, match=words):
        TableSolver(**arguments)


def test_an_image_serves_single_samples_of_its_shape():
    flow = bj.Flow(lambda params, t, x: -jnp.sin(x), None, (2, 3))
    table = dataclasses.replace(bj.classic.midpoint(4), c=jnp.linspace(0.1, 0.5, 5), xi=jnp.arange(6.0).reshape(2, 3))
    term, x0 = diffrax.ODETerm(lambda t, y, args: -jnp.sin(y)), flow.noise(jax.random.key(0), (4,))
    each = jax.vmap(lambda y0: solved(TableSolver(table), term, y0).ys[0])
    np.testing.assert_allclose(each(x0), bj.solve(flow, table, x0), rtol=1e-5, atol=1e-6)
