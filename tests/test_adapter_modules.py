"""Modules of Flax linen, NNX and Equinox as flows."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import bespoke_jax as bj
from bespoke_jax.adapters import equinox, linen
from bespoke_jax.adapters import nnx as adapter_nnx

KEY = jax.random.key(0)
X0 = jax.random.normal(KEY, (4, 6))


class Linen(nn.Module):
    train: bool = False

    @nn.compact
    def __call__(self, x, t):
        x = nn.BatchNorm(use_running_average=not self.train)(nn.Dense(6)(jnp.concatenate([x, t[:, None]], axis=1)))
        return nn.Dropout(0.5, deterministic=not self.train)(x)


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.layer, self.norm = nnx.Linear(7, 6, rngs=rngs), nnx.BatchNorm(6, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, times, x):
        return self.dropout(self.norm(self.layer(jnp.concatenate([x, times[:, None]], axis=1))))


class Equinox(eqx.Module):
    layers: eqx.nn.MLP
    dropout: eqx.nn.Dropout

    def __call__(self, t, x, *, key=None):
        return self.dropout(self.layers(jnp.append(x, t)), key=key)


class Scaled(nn.Module):
    scale: object

    @nn.compact
    def __call__(self, x, t):
        return nn.Dense(x.shape[-1])(x) * jnp.asarray(self.scale)


class Static(eqx.Module):
    weights: jax.Array
    scale: object = eqx.field(static=True)

    def __call__(self, t, x):
        return x * self.weights * jnp.asarray(self.scale)


def a_linen():
    variables = Linen().init(KEY, X0, jnp.zeros(4))
    return linen.flow(Linen(), variables, (6,)), lambda t, x: Linen().apply(variables, x, jnp.full(len(x), t))


def an_nnx():
    module = Nnx(nnx.Rngs(1))
    module.eval()
    return adapter_nnx.flow(module, (6,)), lambda t, x: module(jnp.full(len(x), t), x)


def an_equinox():
    module = eqx.nn.inference_mode(Equinox(eqx.nn.MLP(7, 6, 8, 1, key=KEY), eqx.nn.Dropout(0.5)))
    return equinox.flow(module, (6,)), lambda t, x: jax.vmap(lambda x: module(t, x))(x)


MAKE = {"linen": a_linen, "nnx": an_nnx, "equinox": an_equinox}


@pytest.mark.parametrize("name", MAKE)
def test_the_velocity_is_the_module_and_everything_runs(name, tmp_path):
    flow, own = MAKE[name]()
    np.testing.assert_allclose(flow(0.3, X0), own(jnp.float32(0.3), X0), rtol=1e-5, atol=1e-6)
    theta, euler = bj.init_theta("rk2", 2), X0
    for t in (0, 0.25, 0.5, 0.75):
        euler = euler + 0.25 * own(jnp.float32(t), euler)
    np.testing.assert_allclose(bj.solve(flow, bj.classic.euler(4), X0), euler, rtol=1e-5, atol=1e-5)
    recipe = bj.Recipe(stages=(bj.Stage("endpoint", 2),), num_paths=8, num_validation=8, choose_start=False)
    assert np.isfinite(bj.fit(flow, theta, KEY, recipe).history[-1]["rmse"])
    bj.save_sampler(tmp_path / "sampler", flow, theta)
    found = bj.load_sampler(tmp_path / "sampler")(flow.params, X0)
    np.testing.assert_allclose(found, bj.solve(flow, theta, X0), rtol=1e-5, atol=1e-5)
    again = MAKE[name]()[0]
    assert jax.tree.structure(again) == jax.tree.structure(flow)  # they share compiled programs


def half_linen(module, t, x, condition):
    return condition - 0 * module(x, jnp.full(len(x), t)) - x


def half_nnx(module, t, x, condition):
    return condition - 0 * module(jnp.full(len(x), t), x) - x


def half_equinox(module, t, x, condition):
    return condition - 0 * module(t, x) - x


def conditional(name, condition):
    if name == "linen":
        variables = Linen().init(KEY, X0, jnp.zeros(4))
        return linen.flow(Linen(), variables, (6,), call=half_linen, condition=condition)
    if name == "nnx":
        module = Nnx(nnx.Rngs(1))
        module.eval()
        return adapter_nnx.flow(module, (6,), call=half_nnx, condition=condition)
    module = eqx.nn.inference_mode(Equinox(eqx.nn.MLP(7, 6, 8, 1, key=KEY), eqx.nn.Dropout(0.5)))
    return equinox.flow(module, (6,), call=half_equinox, condition=condition)


@pytest.mark.parametrize("name", MAKE)
def test_conditions_can_be_given_and_guided(name):
    flow = bj.guided(conditional(name, np.float32(2.0)), 0.5)
    np.testing.assert_allclose(flow(0.5, X0), 3.0 - X0, rtol=1e-5, atol=1e-6)
    each = bj.given(conditional(name, np.float32(0.0)), jnp.arange(4.0))
    np.testing.assert_allclose(each(0.5, X0), jnp.arange(4.0)[:, None] - X0, rtol=1e-5, atol=1e-6)


def test_predictions_are_read_as_velocities():
    _, own = an_equinox()
    module = eqx.nn.inference_mode(Equinox(eqx.nn.MLP(7, 6, 8, 1, key=KEY), eqx.nn.Dropout(0.5)))
    flow = equinox.flow(module, (6,), bj.schedulers.CondOT(), prediction="data")
    np.testing.assert_allclose(flow(0.25, X0), (own(jnp.float32(0.25), X0) - X0) / 0.75, rtol=1e-5, atol=1e-5)
    with pytest.raises(TypeError, match="scheduler: wanted"):
        equinox.flow(module, (6,), prediction="data")


def in_training(name):
    if name == "linen":
        variables = Linen().init(KEY, X0, jnp.zeros(4))
        return linen.flow(Linen(train=True), variables, (6,))
    if name == "nnx":
        return adapter_nnx.flow(Nnx(nnx.Rngs(1)), (6,))
    return equinox.flow(Equinox(eqx.nn.MLP(7, 6, 8, 1, key=KEY), eqx.nn.Dropout(0.5)), (6,))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("linen", "evaluation mode.*train=False"),
        ("nnx", "evaluation mode.*module.eval"),
        ("equinox", "inference mode.*dropout"),
    ],
)
def test_training_mode_is_refused(name, words):
    with pytest.raises(ValueError, match=words):
        in_training(name)


def test_parts_in_training_mode_are_named():
    module = Nnx(nnx.Rngs(1))
    module.eval()
    module.norm.use_running_average = False
    with pytest.raises(ValueError, match=r"use_running_average=False in norm \(BatchNorm\)"):
        adapter_nnx.flow(module, (6,))


@pytest.mark.filterwarnings("ignore:A JAX array is being set as static")
@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: linen.flow(3, {}, (6,)), TypeError, "module: wanted a flax.linen.Module"),
        (lambda: adapter_nnx.flow(3, (6,)), TypeError, "module: wanted a flax.nnx.Module"),
        (lambda: equinox.flow(3, (6,)), TypeError, "module: wanted an equinox.Module"),
        (lambda: equinox.flow(eqx.nn.MLP(7, 6, 8, 1, key=KEY), (6,)), ValueError, "call: wanted a function"),
        (lambda: equinox.flow(lambda t, x: x, (6,), condition=1.0), ValueError, "call: wanted .* condition"),
        (lambda: equinox.flow(lambda t, x: x, (6,), call=3), TypeError, "call: wanted a function"),
        (lambda: equinox.flow(lambda t, x: x[:3], (6,)), ValueError, "velocity: wanted the shape of x"),
        (lambda: equinox.flow(lambda t, x: x, (6,), prediction="noises"), ValueError, "prediction: wanted"),
        (lambda: equinox.flow(lambda t, x: x, "6"), TypeError, "event_shape: wanted"),
        (lambda: equinox.flow(lambda t, x: x, (6,), time_margin=0.1), ValueError, "time_margin: wanted None"),
        (
            lambda: linen.flow(Scaled(np.ones(6)), {}, (6,)),
            ValueError,
            r"module: wanted no arrays .* at module\.scale\.",
        ),
        (
            lambda: linen.flow(Scaled(Scaled({"a": [np.ones(6)]})), {}, (6,)),
            ValueError,
            r"at module\.scale\.scale\['a'\]",
        ),
        (
            lambda: equinox.flow(Static(jnp.ones(6), np.ones(6)), (6,)),
            ValueError,
            r"at module\.scale\. Make it a tuple",
        ),
        (
            lambda: equinox.flow(eqx.nn.Lambda(Static(jnp.ones(6), np.ones(6))), (6,), call=lambda m, t, x: m(x)),
            ValueError,
            r"module: wanted no arrays",
        ),
    ],
)
def test_what_is_wrong_is_named(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_equinox_times_come_first_or_last():
    for module in (lambda t, x: t * x, lambda x, time: time * x):
        np.testing.assert_allclose(equinox.flow(module, (6,))(0.5, X0), 0.5 * X0)


@pytest.mark.parametrize(
    "make",
    [
        lambda: linen.flow(Scaled((1.0, 2.0)), Scaled((1.0, 2.0)).init(KEY, X0[:, :2], jnp.zeros(4)), (2,)),
        lambda: equinox.flow(Static(jnp.ones(2), (1.0, 2.0)), (2,)),
    ],
)
def test_attributes_that_compare_make_equal_flows(make):
    ends = [bj.solve(make(), bj.classic.euler(2), X0[:, :2]) for _ in range(2)]
    np.testing.assert_array_equal(*ends)


def test_the_margin_of_a_prediction_is_the_flows():
    flow = equinox.flow(lambda t, x: x, (6,), bj.schedulers.CondOT(), prediction="noise", time_margin=0.1)
    assert flow.time_range == (0.1, 0.9)


class OfTrees(eqx.Module):
    """dx/ds, s = 1 at the noise, of samples of two parts."""

    layer: eqx.nn.Linear

    def __call__(self, t, x):
        return {"a": t * self.layer(x["a"]), "b": x["b"] - t}


def first_alone(params):
    return {"a": jnp.ones(3), "b": jnp.zeros(())}


def shifted(params, key):
    return {"a": 2 + jax.random.normal(key, (3,)), "b": jnp.zeros(())}


def test_another_time_trees_sources_and_weights_pass_through():
    module = OfTrees(eqx.nn.Linear(3, 3, key=KEY))
    options = dict(time="noise_at_1", source=shifted, weights=first_alone)
    flow = equinox.flow(module, {"a": (3,), "b": ()}, bj.schedulers.CondOT(), **options)
    x = flow.noise(KEY, (4,))
    found = flow(0.2, x)
    np.testing.assert_allclose(found["a"], -0.8 * jax.vmap(module.layer)(x["a"]), rtol=1e-5)
    np.testing.assert_allclose(found["b"], 0.8 - x["b"], rtol=1e-6)
    np.testing.assert_allclose(flow.rmse(x, {**x, "b": x["b"] + 9}), np.zeros(4))
    with pytest.raises(TypeError, match="scheduler: wanted that of the network for time='noise_at_1'"):
        equinox.flow(module, {"a": (3,), "b": ()}, time="noise_at_1")
    by_default = linen.flow(TreesByDefault(), {}, {"x": (2,)})
    np.testing.assert_allclose(by_default(0.5, {"x": jnp.ones((3, 2))})["x"], np.full((3, 2), 0.5))


class TreesByDefault(nn.Module):
    def __call__(self, x, t):
        return jax.tree.map(lambda leaf: t[:, None] * leaf, x)
