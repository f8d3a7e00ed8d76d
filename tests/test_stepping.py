"""Tables run one evaluation at a time, by loops that own their network calls."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bespoke_jax as bj
from bespoke_jax.flow.guided import of_call

FLOW = bj.analytic.mixture([[1.0, -1.0, 0.3], [0.0, 1.0, -0.5]], std=0.3)
X0 = jax.random.normal(jax.random.key(0), (4, 3))
GENERAL = dataclasses.replace(
    bj.classic.heun(6), first=jnp.float32(0.9), c=jnp.linspace(-0.5, 1, 7), xi=jnp.array([0.1, -2.0, 1.0])
)
TABLES = {
    "euler": bj.classic.euler(4),
    "rk4": bj.classic.rk4(4),
    "unipc": bj.classic.unipc(5, FLOW.scheduler),
    "learned": bj.to_table(bj.init_theta("rk2", 3)),
    "general": GENERAL,
    "blocks": bj.to_table(bj.in_blocks(bj.classic.euler(4), 2)),
}


def loop(table, x0, velocity, image=None):
    carry = table.begin(x0, image)
    for i, t in enumerate(table.times()):
        carry, x = table.step(i, carry, velocity(i, t, carry.x))
    assert x is carry.x
    return x


@pytest.mark.parametrize("name", TABLES)
def test_a_loop_ends_where_solve_does(name):
    table, wanted = TABLES[name], bj.solve(FLOW, TABLES[name], X0)
    np.testing.assert_allclose(loop(table, X0, lambda i, t, x: FLOW(t, x)), wanted, rtol=1e-6, atol=1e-6)

    def body(carry, index_and_time):
        i, t = index_and_time
        return table.step(i, carry, FLOW(t, carry.x))

    @jax.jit
    def scanned(x0):
        return jax.lax.scan(body, table.begin(x0), (jnp.arange(table.nfe), table.times()))

    carry, states = scanned(X0)
    np.testing.assert_allclose(carry.x, wanted, rtol=1e-6, atol=1e-6)
    path = bj.solve(FLOW, table, X0, return_path=True)[1:] if table.block == 1 else wanted[None]
    np.testing.assert_allclose(states[-len(path) :], path, rtol=1e-6, atol=1e-6)
    numpy = jax.tree.map(np.asarray, table)  # as `load_solver` of a program without devices may hold it
    found = jax.jit(
        lambda x0: jax.lax.fori_loop(0, 1, lambda i, c: numpy.step(i, c, FLOW(0.0, c.x))[0], numpy.begin(x0))
    )
    np.testing.assert_allclose(found(X0).x, states[0] if table.t[0] == 0 else found(X0).x, rtol=1e-5, atol=1e-5)


def test_states_keep_their_dtype_and_any_batch():
    x0 = X0.reshape(2, 2, 3).astype(jnp.bfloat16)
    carry = GENERAL.begin(x0)
    assert (carry.x.dtype, carry.coming.dtype, carry.coming.shape) == (jnp.bfloat16, jnp.float32, (6, 2, 2, 3))
    _, x = GENERAL.step(0, carry, carry.x)
    assert x.shape == x0.shape and x.dtype == jnp.bfloat16


def conditional(params, t, x):
    return params["condition"] - x * (1 + t)


def test_fields_name_the_network_and_images_are_of_the_samples():
    flow = bj.guided(
        bj.given(bj.Flow(conditional, {"condition": jnp.zeros(2)}, (2,)), jnp.eye(2)[jnp.array([0, 1, 0])]), 1.5
    )
    table = bj.by_call(bj.classic.euler(2), 1.5)
    table = dataclasses.replace(table, c=jnp.linspace(0, 1, 5), xi=jnp.array([[1.0, 2.0], [-3.0, 0.5]]))
    x0 = X0[:3, :2]
    found = loop(table, x0, lambda i, t, x: of_call(flow, table.fields[i])(t, x), table.image(flow))
    np.testing.assert_allclose(found, bj.solve(flow, table, x0), rtol=1e-6, atol=1e-6)


# --- Images of the caller's samples. ---

CLASSES = dataclasses.replace(bj.classic.euler(2), c=jnp.ones(3), xi=jnp.arange(6.0).reshape(3, 2))


def still(t, x):
    return 0 * x


@pytest.mark.parametrize("x0", [jnp.zeros((3, 2)), jnp.zeros((4, 2)), np.zeros((1, 2), np.float32)])
@pytest.mark.parametrize("run", [lambda x0: CLASSES.begin(x0), lambda x0: CLASSES.walk(still, x0)])
def test_images_of_classes_are_not_those_of_as_many_samples(run, x0):
    with pytest.raises(
        ValueError, match=r"image: wanted those of these samples, as in .*table\.image\(flow\)\), .* got None"
    ):
        run(x0)
    with pytest.raises(ValueError, match="image: wanted those of these samples"):
        jax.eval_shape(run, x0)


@pytest.mark.parametrize("shape", [(2, 3), (6, 1), (2, 3, 2), (4, 2), (3,), (3, 1)])
def test_an_image_of_another_shape_is_not_reshaped(shape):
    for run in (CLASSES.begin, lambda x0, image: CLASSES.walk(still, x0, image)):
        with pytest.raises(ValueError, match=r"image: wanted the shape of x0, \(3, 2\), or of one sample, got"):
            run(jnp.zeros((3, 2)), jnp.zeros(shape))


@pytest.mark.parametrize(
    ("batch", "image"),
    [((3,), (2,)), ((3,), (3, 2)), ((2, 3), (6, 2)), ((2, 3), (2, 3, 2)), ((2, 3), (2,)), ((), (2,)), ((), (1, 2))],
)
def test_images_of_one_sample_and_of_each(batch, image):
    x0, values = jnp.zeros((*batch, 2)), np.arange(np.prod(image), dtype=np.float32).reshape(image)
    wanted = np.broadcast_to(values, x0.shape) if image == (2,) else values.reshape(x0.shape)
    np.testing.assert_array_equal(CLASSES.begin(x0, values).x, wanted)
    np.testing.assert_array_equal(CLASSES.walk(still, x0, values), wanted)
    np.testing.assert_array_equal(jax.jit(CLASSES.walk, static_argnums=0)(still, x0, values), wanted)


def test_a_table_of_one_image_needs_none_given():
    for x0 in (X0, X0[0], X0.reshape(2, 2, 3)):
        np.testing.assert_allclose(loop(GENERAL, x0, lambda i, t, x: -x), GENERAL.walk(lambda t, x: -x, x0), rtol=1e-5)


@pytest.mark.parametrize(
    ("velocity", "image", "error", "words"),
    [
        (still, jnp.ones((9, 9)), ValueError, "image: wanted None, because the table has no image, got one"),
        (lambda t, x: x[:, :1], None, ValueError, r"velocity: wanted the shape of the state, \(4, 3\), got \(4, 1\)"),
        (lambda t, x: x[0], None, ValueError, "velocity: wanted the shape"),
        (lambda t, x: x > 0, None, TypeError, "velocity: wanted a floating"),
        (lambda t, x: x.tolist(), None, TypeError, "velocity: wanted an array, got list"),
    ],
)
def test_a_walk_broadcasts_nothing(velocity, image, error, words):
    with pytest.raises(error, match=words):
        bj.classic.euler(2).walk(velocity, X0, image)
    with pytest.raises(TypeError, match="x0: wanted a floating"):
        bj.classic.euler(2).walk(still, jnp.zeros(3, int))


def test_times_in_the_conventions_of_others():
    table, scheduler = bj.classic.euler(4), bj.schedulers.EDM()
    t = np.array([0, 0.25, 0.5, 0.75])
    np.testing.assert_allclose(table.times(), t)
    np.testing.assert_allclose(table.times("noise_at_1"), 1 - t)
    np.testing.assert_allclose(table.times("steps_of_1000"), 1000 * (1 - t))
    steps = (80 ** (1 / 7) + t * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7  # Karras et al. 2022, eq. 5
    np.testing.assert_allclose(table.times("sigma", scheduler), steps, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(lambda table: table.times("sigma", scheduler))(table), steps, rtol=1e-5)
    constant = bj.schedulers.Scheduler(lambda t: t, lambda t: 0.5)
    np.testing.assert_array_equal(table.times("sigma", constant), [0.5] * 4)
    preserving = bj.schedulers.VariancePreserving()
    level = preserving.sigma(t)  # alpha^2 = 1 - sigma^2
    np.testing.assert_allclose(table.times("sigma", preserving), level, rtol=1e-5)
    np.testing.assert_allclose(
        table.times("noise_to_signal", preserving)[1:], (level / np.sqrt(1 - level**2))[1:], rtol=1e-4
    )


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: GENERAL.times("reversed"), ValueError, "convention: wanted one of"),
        (lambda: GENERAL.times("sigma"), TypeError, "scheduler: wanted"),
        (lambda: GENERAL.times("noise_to_signal"), TypeError, "scheduler: wanted"),
        (
            lambda: GENERAL.times("noise_to_signal", bj.schedulers.CondOT()),
            ValueError,
            "scheduler: wanted alpha above 0",
        ),
        (lambda: GENERAL.begin(jnp.zeros((4, 3), int)), TypeError, "x0: wanted a floating"),
        (lambda: GENERAL.begin([1.0]), TypeError, "x0: wanted an array"),
        (lambda: GENERAL.begin(jnp.zeros((4, 2))), ValueError, "image: wanted"),
        (lambda: dataclasses.replace(GENERAL, a=jnp.zeros(2)).begin(X0), ValueError, "table.a"),
        (lambda: GENERAL.step(6, GENERAL.begin(X0), X0), ValueError, "i: wanted an integer from 0 to 5"),
        (
            lambda: jax.vmap(lambda i: GENERAL.step(i, GENERAL.begin(X0), X0))(jnp.ones(2)),
            ValueError,
            "i: wanted one integer",
        ),
        (lambda: GENERAL.step(0, (X0, X0), X0), TypeError, "carry: wanted"),
        (lambda: GENERAL.step(0, GENERAL.begin(X0), X0[0]), ValueError, "u: wanted the shape of the state"),
        (lambda: GENERAL.step(0, GENERAL.begin(X0), X0 > 0), TypeError, "u: wanted a floating"),
    ],
)
def test_what_is_wrong_is_named(call, error, words):
    with pytest.raises(error, match=words):
        call()
