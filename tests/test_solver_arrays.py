"""What every function asks of a solver first: arrays that agree, and numbers that can be those of a solver."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

import bespoke_jax as bj
from bespoke_jax.learned.families import FAMILIES
from bespoke_jax.solver import check_solver_arrays

TABLE = bj.classic.midpoint(4)
SOLVERS = {base: bj.init_theta(base, 4) for base in FAMILIES} | {"midpoint": TABLE}
SOLVERS["genie"] = bj.classic.genie(4, bj.schedulers.CondOT())


@pytest.mark.parametrize("name", SOLVERS)
def test_a_solver_passes_the_door_with_numbers_and_without(name):
    solver = SOLVERS[name]
    assert check_solver_arrays("solver", solver, needs_table=False) is solver
    structure = jax.eval_shape(lambda: solver)
    assert check_solver_arrays("solver", structure, needs_table=False) is structure
    through = jax.jit(lambda solver: check_solver_arrays("solver", solver, needs_table=False))(solver)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, through, solver))
    batch = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), solver)
    through = jax.vmap(lambda solver: check_solver_arrays("solver", solver, needs_table=False))(batch)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, through, batch))


@pytest.mark.parametrize("field", ["t", "a", "b"])
@pytest.mark.parametrize(
    "change, error, message",
    [
        (lambda v: v[:3], ValueError, "wanted shape"),
        (lambda v: jnp.stack([v, v]), ValueError, "wanted shape"),
        (lambda v: v.at[(-1,) * v.ndim].set(jnp.nan), ValueError, "wanted finite numbers, got NaN or infinity"),
        (lambda v: v.at[(-1,) * v.ndim].set(jnp.inf), ValueError, "wanted finite numbers, got NaN or infinity"),
        (lambda v: v.astype(int), TypeError, r"wanted a floating array of shape \[.*\], got dtype int32"),
        (lambda v: v.astype(complex), TypeError, r"wanted a floating array of shape \[.*\], got dtype complex64"),
        (lambda v: v.tolist(), TypeError, r"wanted a floating array of shape \[.*\], got list"),
        (lambda v: None, TypeError, r"wanted a floating array of shape \[.*\], got NoneType"),
    ],
    ids=["short", "batch", "nan", "inf", "int", "complex", "list", "none"],
)
def test_a_table_whose_arrays_are_no_table(field, change, error, message):
    table = dataclasses.replace(TABLE, **{field: change(getattr(TABLE, field))})
    # t is what the others are measured by: a wrong length of it shows at a
    name = "[ta]" if field == "t" else field
    with pytest.raises(error, match=rf"solver.{name}: {message}"):
        bj.to_table(table)


def test_shapes_that_disagree_are_found_while_tracing():
    x0 = jnp.ones((1, 2))
    flow = bj.analytic.gaussian([1.0, -1.0], 0.3)
    table = bj.SolverTable(jnp.array([0, 0.25, 0.5, 0.75]), *(getattr(bj.classic.euler(3), name) for name in "ab"))
    with pytest.raises(ValueError, match=r"solver.a: wanted shape \[4\], got \[3\]"):
        jax.jit(bj.solve)(flow, table, x0)


@pytest.mark.parametrize("time", [-1e-3, 1.001, 7.0])
def test_times_outside_the_unit_interval(time):
    with pytest.raises(ValueError, match=r"solver.t: wanted times within \[0, 1\], got"):
        bj.to_table(dataclasses.replace(TABLE, t=TABLE.t.at[1].set(time)))


def test_times_may_come_in_any_order_and_twice():
    table = dataclasses.replace(TABLE, t=jnp.array([1.0, 0.25, 0.25, 0.0]))
    assert bj.to_table(table) is table


def test_factors_of_velocities_to_come():
    with pytest.raises(ValueError, match=r"solver.b: wanted a lower triangular matrix"):
        bj.to_table(dataclasses.replace(TABLE, b=TABLE.b.at[0, 1].set(0.1)))


@pytest.mark.parametrize("base", FAMILIES)
@pytest.mark.parametrize(
    "raw, error, message",
    [
        (lambda raw: raw[:-1], ValueError, "wanted shape .*, got"),
        (lambda raw: raw.at[0].set(jnp.nan), ValueError, "wanted finite numbers, got NaN or infinity"),
        (lambda raw: raw.astype(int), TypeError, r"wanted a floating array of shape \[.*\], got dtype int32"),
        (lambda raw: raw.tolist(), TypeError, r"wanted a floating array of shape \[.*\], got list"),
    ],
    ids=["short", "nan", "int", "list"],
)
def test_a_learned_solver_of_other_numbers(base, raw, error, message):
    solver = SOLVERS[base]
    with pytest.raises(error, match=f"theta.raw: {message}"):
        check_solver_arrays("theta", solver.with_raw(raw(solver.raw)))


def test_what_else_a_learned_solver_carries():
    def refused(solver, **fields):
        with pytest.raises((TypeError, ValueError)) as found:
            check_solver_arrays("theta", dataclasses.replace(solver, **fields), needs_table=False)
        return str(found.value)

    theta = SOLVERS["rk1"]
    assert refused(theta, base="rk3") == "theta.base: wanted one of ['rk1', 'rk2'], got 'rk3'."
    assert refused(theta, num_steps=4.0) == "theta.num_steps: wanted an integer >= 1, got 4.0."
    assert refused(theta, learned="t") == "theta.learned: wanted one of ['both', 'scale', 'time'], got 't'."
    assert "theta.held: wanted a floating array of shape [8], got None" in refused(theta.learning("time"), held=None)
    assert refused(theta.learning("time"), held=jnp.zeros(7)) == "theta.held: wanted shape [8], got [7]."
    assert "theta.held: wanted None" in refused(theta, held=jnp.zeros(7))
    times, table = SOLVERS["times"], SOLVERS["table"]
    assert "theta.grid: wanted times that increase" in refused(times, grid=times.grid[::-1])
    assert "theta.method: wanted one of" in refused(times, method="euler-maruyama")
    assert "scheduler: wanted a bespoke_jax.schedulers.Scheduler for the method 'ddim'" in refused(times, method="ddim")
    assert refused(table, reference=table) == "theta.reference: wanted a SolverTable, got LearnedTable."
    broken = dataclasses.replace(table.reference, b=table.reference.b[:3])
    assert refused(table, reference=broken) == "theta.reference.b: wanted shape [4, 4], got [3, 4]."
    assert refused(SOLVERS["curve"], method="rk4") == "base: wanted one of ['rk1', 'rk2'], got 'rk4'."
    assert refused(SOLVERS["genie"], c=jnp.zeros((2, 2))) == "theta.c: wanted shape [2, 3], got [2, 2]."
    assert "theta.t: wanted times within [0, 1]" in refused(SOLVERS["genie"], t=jnp.array([0.0, 1.5]))


@pytest.mark.parametrize("solver", [None, 3, "rk2", SOLVERS["genie"]], ids=lambda solver: type(solver).__name__)
def test_no_solver_with_a_table(solver):
    with pytest.raises(TypeError, match=r"solver: wanted a learned solver or a SolverTable, got"):
        bj.to_table(solver)
    with pytest.raises(TypeError, match=r"solver: wanted a learned solver or a SolverTable, got"):
        check_solver_arrays("solver", solver)
