"""Known solvers at any times, in JAX: the same numbers as `classic`, right derivatives, the order of the method."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bespoke_jax as bj
from bespoke_jax import classic
from bespoke_jax.learned.tables_of_times import METHODS
from tests import reference

pytestmark = pytest.mark.usefixtures("float64")

VP = bj.schedulers.VariancePreserving()
# From snr 0 to sigma 0, where orders are lower, and far from either.
SCHEDULERS = [bj.schedulers.CondOT(), bj.schedulers.EDM()]


def classic_table(method, times, scheduler):
    """The solver of this name at these times, as `classic` makes it."""
    name, _, order = method.rpartition("-")
    n, options = len(times) - 1, dict(grid=times, dtype=jnp.float64)
    match name:
        case "" if method == "ddim":
            return classic.ddim(n, scheduler, **options)
        case "":
            return getattr(classic, method)(METHODS[method].stages * n, **options)
        case "ipndm":
            return classic.ipndm(n, int(order), **options)
        case "ipndm_noise":
            return classic.ipndm(n, int(order), scheduler=scheduler, coefficients="fixed", **options)
        case "deis":
            return classic.deis(n, scheduler, int(order), **options)
        case "dpm_solver_pp":
            return classic.dpm_solver_pp(n, scheduler, int(order[0]), **options)


def uneven(solver):
    """The solver with other times."""
    return solver.with_raw(jnp.asarray(0.5 * np.random.default_rng(1).standard_normal(solver.raw.shape)))


@pytest.mark.parametrize("method", METHODS)
def test_tables_are_those_of_classic_at_any_times(method):
    for scheduler in SCHEDULERS if METHODS[method].needs_scheduler else [None]:
        solver = uneven(bj.LearnedTimes.of(method, 5, scheduler, dtype=jnp.float64))
        wanted = classic_table(method, np.asarray(solver.times()), scheduler)
        for found, entries in zip(jax.tree.leaves(solver.table()), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_allclose(found, entries, rtol=1e-7, atol=1e-9 * np.max(np.abs(entries)))


@pytest.mark.parametrize(
    "method",
    ["rk4", "dpm_solver_pp-3m", *(pytest.param(name, marks=pytest.mark.slow) for name in ("ipndm-4", "deis-3"))],
)
def test_derivatives_in_the_numbers(method):
    scheduler = VP if METHODS[method].needs_scheduler else None
    solver = uneven(bj.LearnedTimes.of(method, 4, scheduler, dtype=jnp.float64))

    def entries(raw):
        return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(solver.with_raw(raw).table())])

    found = jax.jit(jax.jacfwd(entries))(solver.raw)
    wanted = reference.finite_differences(jax.jit(entries), solver.raw)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-7 * np.max(np.abs(wanted)))


def end(table, u, x0):
    """Where a table ends, in NumPy."""
    t, a, b = (np.asarray(leaf) for leaf in (table.t, table.a, table.b))
    x, velocities = x0, []
    for i in range(len(t)):
        velocities.append(u(t[i], x))
        x = a[i] * x0 + sum(b[i, j] * velocity for j, velocity in enumerate(velocities))
    return x


@pytest.mark.parametrize("method, order", [("midpoint", 2), ("ipndm-3", 3)])  # of the others `classic` has the orders
def test_order_of_convergence_on_smooth_grids(method, order):
    errors, numbers = [], (32, 96)
    for n in numbers:
        r = np.linspace(0, 1, n + 1)
        # A grid with small steps at the start, where orders are lower, and learned times on top of it.
        solver = bj.LearnedTimes.of(method, n, grid=r**2 * (3 - r) / 2, dtype=jnp.float64)
        table = jax.jit(bj.to_table)(solver.with_raw(jnp.asarray(0.5 * np.sin(3 * r[1:-1]))))
        errors.append(abs(end(table, lambda t, x: np.cos(t) * x, 1.0) - np.exp(np.sin(1.0))))
    assert reference.order_of(errors, numbers) == pytest.approx(order, abs=0.35), errors
