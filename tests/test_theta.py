"""Theta: counts, the start, any raw vector, and the way back from knots."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import bespoke_jax as bj
from bespoke_jax.learned.families import FAMILIES
from tests import reference

pytestmark = pytest.mark.usefixtures("float64")

SIZES = [("rk1", 4), ("rk2", 3)]


@pytest.mark.parametrize("n", [1, 2, 5, 10])
def test_counts_of_parameters_and_evaluations(n):
    for base, parameters, nfe in (("rk1", 4 * n - 1, n), ("rk2", 8 * n - 1, 2 * n)):
        theta = bj.init_theta(base, num_steps=n)
        assert (theta.num_parameters, theta.nfe, theta.raw.shape) == (parameters, nfe, (parameters,))


@pytest.mark.parametrize("base, n", SIZES)
def test_the_start_is_the_identity(base, n):
    t, dt, s, ds = bj.init_theta(base, n, dtype=jnp.float64).knots()
    size = reference.INTERVALS[base] * n
    np.testing.assert_allclose(t, np.arange(size + 1) / size, atol=1e-15)
    for found, wanted, shape in ((dt, 1.0, size), (s, 1.0, size + 1), (ds, 0.0, size)):
        np.testing.assert_array_equal(found, np.full(shape, wanted))


@pytest.mark.parametrize("base, n", SIZES)
def test_every_parameter_moves_the_knots_its_own_way(base, n):
    # 4N - 1 numbers that are really free: the Jacobian of the knots has that rank, at the start and away from it.
    theta = bj.init_theta(base, n, dtype=jnp.float64)

    @jax.jit
    @jax.jacfwd
    def jacobian(raw):
        return jnp.concatenate(bj.Theta(raw, base, n).knots())

    for raw in (theta.raw, jnp.asarray(np.random.default_rng(0).standard_normal(theta.num_parameters))):
        assert np.linalg.matrix_rank(jacobian(raw), tol=1e-4) == theta.num_parameters


@jax.jit
def knots_and_gradient(theta):
    """Knots, and the gradient of a sum over all that a step computes from them, on a path that bends."""

    def loss(theta):
        def error(i):
            x = jnp.asarray([0.5, -1.0], theta.raw.dtype)
            t, x_next = bj.step_theta(theta, i, x, lambda t, x: jnp.sin(3 * t) - x)
            return jnp.sqrt(jnp.sum((x_next - jnp.cos(t)) ** 2) + 1e-12)

        return jnp.sum(jax.vmap(error)(jnp.arange(theta.num_steps)))

    return theta.knots(), jax.grad(loss)(theta).raw


def any_number(width):
    ordinary = st.floats(-1e4, 1e4, width=width)
    awkward = st.sampled_from([0.0, -0.0, 1e4, -1e4, 1e-6, -1e-30, 88.0, -104.0, 1.0])
    return ordinary | awkward


@pytest.mark.parametrize(
    "base, n, dtype",
    [("rk1", 4, jnp.float32), ("rk2", 3, jnp.float64), ("rk2", 3, jnp.float32), ("rk2", 20, jnp.float32)],
)
def test_any_raw_vector_gives_usable_knots(base, n, dtype):
    start = bj.init_theta(base, n, dtype=dtype)
    width = 8 * dtype.dtype.itemsize

    @given(
        st.one_of(
            hnp.arrays(dtype.dtype, start.num_parameters, elements=any_number(width)),
            hnp.arrays(dtype.dtype, start.num_parameters, elements=st.sampled_from([-1e4, 1e4])),
            hnp.arrays(dtype.dtype, start.num_parameters, elements=st.sampled_from([0.0, 1e4])),
        )
    )
    def check(raw):
        (t, dt, s, ds), gradient = knots_and_gradient(bj.Theta(jnp.asarray(raw), base, n))
        t, dt, s, ds = map(np.asarray, (t, dt, s, ds))
        assert t[0] == 0 and t[-1] == 1 and np.all(np.diff(t) > 0)
        assert s[0] == 1 and np.all(s > 0) and np.all(dt > 0)
        for values in (t, dt, s, ds, gradient):
            assert values.dtype == dtype and np.all(np.isfinite(values))

    check()


@pytest.mark.parametrize("base, n", SIZES)
def test_no_gradient_is_dead_at_the_start(base, n):
    # |.| as the positive function has slope 0 or none there.
    gradient = knots_and_gradient(bj.init_theta(base, n, dtype=jnp.float64))[1]
    assert np.all(np.abs(gradient) > 1e-8)


@pytest.mark.parametrize("base, n", SIZES)
@pytest.mark.parametrize("seed", range(3))
def test_theta_from_knots_is_the_inverse_of_knots(base, n, seed):
    raw = jnp.asarray(2 * np.random.default_rng(seed).standard_normal(4 * reference.INTERVALS[base] * n - 1))
    back = bj.theta_from_knots(base, *bj.Theta(raw, base, n).knots())
    assert (back.base, back.num_steps, back.raw.dtype) == (base, n, jnp.float64)
    np.testing.assert_allclose(back.raw, raw, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("base, n", SIZES)
def test_knots_is_the_inverse_of_theta_from_knots(base, n):
    knots = reference.random_knots(base, n)
    for found, wanted in zip(bj.theta_from_knots(base, *knots, dtype=jnp.float64).knots(), knots, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-13)


def test_round_trip_in_float32():
    raw = jnp.asarray(np.random.default_rng(1).standard_normal(23), jnp.float32)
    back = bj.theta_from_knots("rk2", *bj.Theta(raw, "rk2", 3).knots())
    assert back.raw.dtype == jnp.float32
    np.testing.assert_allclose(back.raw, raw, atol=2e-5)


def test_knots_keep_the_dtype_of_raw():
    for dtype in (jnp.float32, jnp.float64):
        assert {v.dtype for v in bj.init_theta("rk2", 3, dtype=dtype).knots()} == {jnp.dtype(dtype)}


def test_theta_is_a_tree_of_one_leaf():
    theta = bj.init_theta("rk2", 3)
    assert [leaf.shape for leaf in jax.tree.leaves(theta)] == [(23,)]
    moved = jax.tree.map(lambda raw: raw + 1, theta)
    assert (moved.base, moved.num_steps) == ("rk2", 3) and moved.raw.tolist() == [1.0] * 23


def test_a_batch_of_thetas_under_vmap():
    raws = jnp.asarray(np.random.default_rng(0).standard_normal((4, 15)))

    def times(raw):
        return bj.Theta(raw, "rk1", 4).knots().t

    for row, raw in zip(jax.jit(jax.vmap(times))(raws), raws, strict=True):
        np.testing.assert_allclose(row, jax.jit(times)(raw), atol=1e-15)


# --- A part that is learned alone. ---

PARTS = {"time": ("t", "dt"), "scale": ("s", "ds")}


@pytest.mark.parametrize("base, n", SIZES)
@pytest.mark.parametrize("learned", PARTS)
def test_a_part_learned_alone_moves_its_own_knots_and_no_other(base, n, learned):
    theta = bj.theta_from_knots(base, *reference.random_knots(base, n), dtype=jnp.float64)
    part = theta.learning(learned)
    for name, before, after in zip(theta.knots()._fields, theta.knots(), part.knots(), strict=True):
        np.testing.assert_array_equal(before, after, err_msg=name)
    assert part.raw.shape == (part.num_parameters,) and part.nfe == theta.nfe
    jacobian = jax.jit(jax.jacfwd(lambda raw: part.with_raw(raw).knots()))(part.raw)
    for name, slope in jacobian._asdict().items():
        assert np.any(slope) == (name in PARTS[learned]), name
    # All of these numbers are really free.
    rows = np.concatenate([getattr(jacobian, name) for name in PARTS[learned]])
    assert np.linalg.matrix_rank(rows, tol=1e-4) == part.num_parameters


def test_the_parts_add_up_and_come_together_again():
    theta = bj.Theta(jnp.asarray(np.random.default_rng(0).standard_normal(23)), "rk2", 3)
    time, scale = theta.learning("time"), theta.learning("scale")
    assert (time.num_parameters, scale.num_parameters) == (11, 12)
    for part in (time, scale, time.learning("scale"), scale.learning("both")):
        np.testing.assert_array_equal(part.numbers(), theta.raw)
    assert scale.learning("both").held is None
    assert [leaf.shape for leaf in jax.tree.leaves(time)] == [(11,), (12,)]


def test_times_learned_alone_leave_a_solver_that_never_scales_the_state():
    # x_{i+1} = x_i + h dt_i u: the state at the start of each step has the factor 1, whatever is learned.
    part = bj.init_theta("rk1", 4, dtype=jnp.float64).learning("time")
    table = bj.to_table(part.with_raw(jnp.asarray(np.random.default_rng(0).standard_normal(7))))
    np.testing.assert_allclose(table.a, 1, atol=1e-15)
    np.testing.assert_allclose(table.b, np.tril(np.tile(np.diag(table.b), (4, 1))), atol=1e-15)
    assert np.std(np.diff(table.t)) > 0.01


def test_scales_learned_alone_leave_the_times():
    part = bj.init_theta("rk2", 2, dtype=jnp.float64).learning("scale")
    table = bj.to_table(part.with_raw(jnp.asarray(np.random.default_rng(0).standard_normal(8))))
    np.testing.assert_allclose(table.t, np.arange(4) / 4, atol=1e-15)
    assert np.std(table.a) > 0.01


# --- Refusals. ---


@pytest.mark.parametrize("learned", ["times", "", None, ["time"]])
def test_a_part_that_there_is_not(learned):
    with pytest.raises(ValueError, match=r"learned: wanted one of .*'time'.*got "):
        bj.init_theta("rk2", 2).learning(learned)


@pytest.mark.parametrize("num_steps", [0, -1, 2.5, 4.0, True, "4", None])
def test_a_number_of_steps_that_is_none(num_steps):
    with pytest.raises(ValueError, match="num_steps: wanted an integer >= 1"):
        bj.init_theta("rk2", num_steps)


@pytest.mark.parametrize("name", ["rk3", "RK2", "", None, 2])
def test_an_unknown_base(name):
    with pytest.raises(ValueError, match="base: wanted one of"):
        bj.init_theta(name, 4)
    with pytest.raises(ValueError, match="base: wanted one of"):
        bj.theta_from_knots(name, *reference.random_knots("rk2", 2))


def with_entry(name, index, value):
    knots = dict(zip(("t", "dt", "s", "ds"), reference.random_knots("rk2", 2), strict=True))
    knots[name][index] = value
    return knots


@pytest.mark.parametrize("name", ["t", "dt", "s", "ds"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_knots_that_are_not_finite(name, value):
    with pytest.raises(ValueError, match=f"^{name}: wanted finite"):
        bj.theta_from_knots("rk2", **with_entry(name, 1, value))


@pytest.mark.parametrize(
    "name, index, value",
    [
        ("t", 0, 0.01),
        ("t", -1, 1.01),
        ("t", -1, 0.99),
        ("t", 1, -0.1),
        ("t", 2, 0.0),
        ("t", 3, 1.0),
        ("s", 0, 1.1),
        ("s", 2, -1.0),
        ("s", 1, 0.0),
        ("s", 1, 1e9),
        ("dt", 1, 0.0),
        ("dt", 0, -1.0),
        ("dt", 3, 1e-9),
        ("ds", 1, 1e6),
    ],
)
def test_knots_out_of_bounds(name, index, value):
    with pytest.raises(ValueError, match=f"^{name}: wanted"):
        bj.theta_from_knots("rk2", **with_entry(name, index, value))


def test_rk2_needs_an_even_number_of_intervals():
    knots = reference.random_knots("rk1", 3)
    with pytest.raises(ValueError, match="knots: wanted a multiple of 2 intervals for rk2, got 3"):
        bj.theta_from_knots("rk2", *knots)


@pytest.mark.parametrize("name", ["t", "dt", "s", "ds"])
def test_knots_of_the_wrong_length(name):
    knots = with_entry("t", 0, 0.0)
    knots[name] = knots[name][:-1]
    with pytest.raises(ValueError, match=rf"knots: wanted t and s of shape \[N \+ 1\].*{name} \["):
        bj.theta_from_knots("rk2", **knots)


def test_raw_of_the_wrong_length():
    with pytest.raises(ValueError, match=r"theta.raw: wanted shape \[23\], got \[22\]"):
        bj.Theta(jnp.zeros(22), "rk2", 3).knots()


@pytest.mark.parametrize("base, num_steps", [("rk1", 3), ("rk2", 2)])
def test_knots_may_be_lists(base, num_steps):
    knots = reference.random_knots(base, num_steps)
    wanted = bj.theta_from_knots(base, *map(np.asarray, knots))
    found = bj.theta_from_knots(base, *(np.asarray(value).tolist() for value in knots))
    assert found.raw.dtype == wanted.raw.dtype == jnp.float64
    np.testing.assert_array_equal(found.raw, wanted.raw)
    for name, value in zip(("t", "dt", "s", "ds"), knots, strict=True):
        np.testing.assert_allclose(getattr(found.knots(), name), value, rtol=1e-10, atol=1e-12)
    plain = bj.theta_from_knots("rk1", [0, 0.5, 1], [1, 1], [1, 1, 1], [0, 0])
    np.testing.assert_array_equal(plain.raw, np.zeros(7))


@pytest.mark.parametrize("name", ["t", "dt", "s", "ds"])
@pytest.mark.parametrize(
    "change", [lambda v: list(map(str, v)), lambda v: v * (1 + 1j), lambda v: v > 0, lambda v: "t"]
)
def test_knots_that_are_no_numbers(name, change):
    knots = with_entry("t", 0, 0.0)
    knots[name] = change(np.asarray(knots[name]))
    with pytest.raises(ValueError, match=rf"{name}: wanted numbers of shape \[N"):
        bj.theta_from_knots("rk2", **knots)


@pytest.mark.parametrize("dtype", [jnp.int32, complex, bool, "text", None])
def test_a_theta_of_other_than_floats(dtype):
    for family in FAMILIES:
        with pytest.raises(TypeError, match="dtype: wanted a floating dtype such as float32, got"):
            bj.init_theta(family, 4, dtype=dtype)
    if dtype is not None:
        with pytest.raises(TypeError, match="dtype: wanted a floating dtype such as float32, got"):
            bj.theta_from_knots("rk2", **with_entry("t", 0, 0.0), dtype=dtype)


@pytest.mark.parametrize("learned", ["t", None, ["time"], 1])
def test_a_part_that_is_none(learned):
    with pytest.raises(ValueError, match=r"learned: wanted one of .*, got"):
        bj.init_theta("rk1", 4).learning(learned)


@pytest.mark.parametrize("base", ["rk3", None, ["rk1"], 2])
def test_a_base_that_is_none(base):
    with pytest.raises(ValueError, match=r"base: wanted one of .*, got"):
        bj.init_theta(base, 4)


def test_knots_of_numpy_are_cast_where_jax_has_no_float64():
    # Without a warning of JAX's: they are NumPy's by default, and not asked for by name.
    with jax.enable_x64(False):
        for kind in (np.asarray, list):
            theta = bj.theta_from_knots("rk1", *map(kind, ([0.0, 0.25, 1.0], [1.0, 2.0], [1.0, 1.0, 1.0], [0.0, 0.0])))
            assert theta.raw.dtype == jnp.float32
            np.testing.assert_allclose(theta.knots().t, [0.0, 0.25, 1.0], atol=1e-7)
