"""What a sample may have of its own, how its conditions are stored, and networks that are batched by nature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bespoke_jax as bj
from bespoke_jax.flow import conditions, kernels, per_sample
from bespoke_jax.flow.guided import of_call, scale_of
from bespoke_jax.run.probe import check_velocity

KEY = jax.random.key(0)
CENTRES = jnp.array([[1.0, 0.0], [-0.5, 2.0], [0.0, -1.5]])
X = jax.random.normal(KEY, (3, 2))


def velocity(params, t, x):
    """Of one condition, for a batch."""
    c = params["condition"]
    return params["speed"] * jnp.tanh(c["centre"] - x) * (1 + jnp.sin(3 * t) * x) + c["weight"]


def batched_network(params, t, x):
    """The same for a network that wants conditions with the batch axis of x."""
    c = params["condition"]
    assert c["centre"].shape == x.shape and c["weight"].shape == x.shape[:1]
    return params["speed"] * jnp.tanh(c["centre"] - x) * (1 + jnp.sin(3 * t) * x) + c["weight"][:, None]


PARAMS = {"speed": jnp.float32(1.5)}
CONDITIONS = {"centre": CENTRES, "weight": jnp.array([0.1, 0.2, 0.3])}
ONE = jax.tree.map(lambda leaf: leaf[0], CONDITIONS)
MANY = bj.given(bj.Flow(velocity, PARAMS | {"condition": ONE}, (2,)), CONDITIONS)
BATCHED = bj.given(bj.Flow(batched_network, PARAMS, (2,)), CONDITIONS, batched=True)
CLOSE = dict(rtol=2e-6, atol=2e-6)


def no_centre(condition):
    return condition | {"centre": 0 * condition["centre"]}


def weight_of(condition):
    return condition["weight"]


# --- No condition beforehand, and batched networks. ---


def test_conditions_of_samples_without_given_are_named():
    flow = bj.Flow(batched_network, PARAMS | {"condition": CONDITIONS}, (2,))
    np.testing.assert_array_equal(flow(0.3, X), BATCHED(0.3, X))  # as many samples
    for call in (lambda: flow(0.3, X[:2]), lambda: bj.sample(flow, bj.classic.euler(2), KEY)):
        with pytest.raises(
            ValueError, match=r"velocity: wanted one of one condition .*given\(flow, conditions, batched=True"
        ):
            call()
    with pytest.raises(AssertionError):  # the network's own
        bj.Flow(batched_network, PARAMS | {"condition": CONDITIONS | {"weight": jnp.ones((3, 1))}}, (2,))(0.3, X[:2])


def test_a_flow_without_a_condition_of_its_own_may_be_given_some():
    bare = bj.Flow(velocity, PARAMS, (2,))
    np.testing.assert_array_equal(bj.given(bare, CONDITIONS)(0.3, X), MANY(0.3, X))
    assert bj.sample(bj.given(bare, CONDITIONS), bj.classic.euler(2), KEY, num_samples=4).shape == (4, 2)
    with pytest.raises(
        ValueError, match=r"flow: wanted a velocity that reads params\['condition'\], got one that does not"
    ):
        bj.given(bj.Flow(lambda p, t, x: p["speed"] * x, PARAMS, (2,)), CONDITIONS)
    for wrong in ({"centre": CENTRES, "weight": jnp.zeros(4)}, {"centre": jnp.float32(1)}, {}):
        with pytest.raises(ValueError, match="conditions: wanted arrays with one leading axis"):
            bj.given(bare, wrong)
    with pytest.raises(TypeError, match="conditions: wanted an array, got object"):
        bj.given(bare, [object()])


@pytest.mark.parametrize("own", [{}, {"condition": ONE}], ids=["bare", "with one"])
def test_a_network_that_is_batched_by_nature_is_called_once(own):
    shapes = []

    def network(params, t, x):
        shapes.append(x.shape)
        return batched_network(params, t, x)

    flow = bj.given(bj.Flow(network, PARAMS | own, (2,)), CONDITIONS, batched=True)
    shapes.clear()
    np.testing.assert_allclose(flow(0.3, X), MANY(0.3, X), **CLOSE)
    assert shapes == [(3, 2)]
    shapes.clear()
    guided = bj.guided(flow, 0.7, no_centre)
    np.testing.assert_allclose(guided(0.3, X), bj.guided(MANY, 0.7, no_centre)(0.3, X), **CLOSE)
    assert shapes == [(6, 2)] and guided.calls_per_evaluation == 2
    shapes.clear()
    wanted = bj.guided(MANY, 0.7)(0.3, X)
    np.testing.assert_allclose(bj.guided(flow, 0.7)(0.3, X), wanted, **CLOSE)
    after = bj.given(bj.guided(flow, 0.7), CONDITIONS, batched=True)
    np.testing.assert_allclose(after(0.3, X), wanted, **CLOSE)
    assert shapes == [(6, 2)] * 2


def test_a_batched_network_without_the_word_is_told_so():
    flow = bj.Flow(
        lambda p, t, x: jnp.concatenate([x, p["condition"]], axis=-1)[:, :2], {"condition": CENTRES[0]}, (2,)
    )
    for own in (flow, flow.replace(params={})):
        with pytest.raises(ValueError, match=r"velocity: wanted one of one condition .* batched=True"):
            bj.given(own, CENTRES)(0.3, X)
        assert bj.given(own, CENTRES, batched=True)(0.3, X).shape == (3, 2)


def test_batched_networks_have_paths_parts_and_times():
    check_velocity(BATCHED, X)
    which = np.array([2, 0, 1, 1, 2])
    x0 = jax.random.normal(KEY, (5, 2))
    ends = [bj.ground_truth(conditions.of_samples(flow, which), x0, 1e-5, 1e-5).x1 for flow in (BATCHED, MANY)]
    np.testing.assert_allclose(*ends, rtol=1e-4, atol=1e-4)
    times = jnp.array([0.1, 0.5, 0.9])
    found, wanted = (conditions.each_at_its_time(flow, times, X) for flow in (BATCHED, MANY))
    np.testing.assert_allclose(found, wanted, **CLOSE)
    np.testing.assert_allclose(conditions.like_any(BATCHED)(0.2, X), conditions.like_any(MANY)(0.2, X), **CLOSE)


# --- Scales of their own. ---


@pytest.mark.parametrize("flow", [MANY, BATCHED], ids=["vmap", "batched"])
def test_each_sample_is_guided_by_its_own_scale(flow):
    scales = np.array([0.0, 0.5, 2.0])
    wanted = [bj.guided(MANY, scale, no_centre)(0.3, X)[i] for i, scale in enumerate(scales)]
    for given in (scales, jnp.asarray(scales), scales.tolist()):
        guided = bj.guided(flow, given, no_centre)
        np.testing.assert_allclose(guided(0.3, X), jnp.stack(wanted), **CLOSE)
    order = np.array([2, 0])
    np.testing.assert_allclose(conditions.of_samples(guided, order)(0.3, X[order]), jnp.stack(wanted)[order], **CLOSE)
    paths = bj.ground_truth(guided, X, 1e-3, 1e-3)
    np.testing.assert_allclose(paths.condition.guidance_scale, scales)
    solver = bj.classic.euler(3)
    ends = bj.sample(guided, solver, KEY, num_samples=6)
    again = bj.solve(conditions.in_turn(guided, 6), solver, guided.noise(KEY, (6,)))
    np.testing.assert_allclose(ends, again, **CLOSE)


def test_the_scale_may_be_a_part_of_the_condition():
    wanted = [bj.guided(MANY, scale, no_centre)(0.3, X)[i] for i, scale in enumerate(CONDITIONS["weight"].tolist())]
    for flow in (MANY, BATCHED):
        np.testing.assert_allclose(bj.guided(flow, weight_of, no_centre)(0.3, X), jnp.stack(wanted), **CLOSE)
    one = bj.guided(bj.Flow(velocity, PARAMS | {"condition": ONE}, (2,)), weight_of, no_centre)
    np.testing.assert_allclose(one(0.3, X[0]), wanted[0], **CLOSE)
    assert bj.guided(MANY, weight_of, no_centre).velocity == bj.guided(MANY, weight_of, no_centre).velocity


def test_networks_of_a_flow_with_scales_of_its_samples():
    guided = bj.guided(MANY, [0.0, 0.5, 2.0], no_centre)
    np.testing.assert_allclose(of_call(guided, 0)(0.3, X), MANY(0.3, X), **CLOSE)
    with pytest.raises(ValueError, match="flow: wanted one guidance scale for all samples"):
        scale_of(guided)


@pytest.mark.parametrize(
    ("flow", "scale", "message"),
    [
        (MANY, [0.0, 1.0], "guidance_scale: wanted one finite number, or 3, one for each condition"),
        (MANY, [0.0, 1.0, np.nan], "guidance_scale: wanted one finite number, or 3"),
        (MANY, np.array([True, True, False]), "guidance_scale: wanted one finite number, or 3"),
        (MANY, lambda c: c["centre"], "guidance_scale: wanted a function from a sample's condition to one float"),
        (MANY.replace(velocity=velocity), [0.0, 1.0, 2.0], "guidance_scale: wanted one finite number, got"),
    ],
)
def test_wrong_scales(flow, scale, message):
    with pytest.raises(ValueError, match=message):
        bj.guided(flow, scale, no_centre)


# --- Large conditions. ---


@pytest.mark.parametrize(
    "flow",
    [MANY, BATCHED, pytest.param(bj.guided(MANY, 0.7, no_centre), marks=pytest.mark.slow)],
    ids=["vmap", "batched", "guided"],
)
def test_shared_conditions_give_what_copies_give(flow, monkeypatch):
    which = np.array([2, 0, 1, 1, 2, 0, 0])
    x0 = jax.random.normal(KEY, (7, 2))

    def results():
        some = conditions.of_samples(flow, which)
        paths = bj.ground_truth(some, x0, 1e-5, 1e-5, batch_size=4)
        paths.check("paths")
        few = paths.take(jnp.array([5, 0, 3]))
        solver = bj.classic.midpoint(4)
        return conditions.stored_conditions(some), [
            some(0.3, x0),
            paths.x1,
            conditions.of_paths(flow, few)(0.5, few.x0),
            conditions.each_at_its_time(some, jnp.linspace(0, 1, 7), x0),
            bj.adjoint.end_points(some, solver, x0, batch_size=3),
            bj.sample(flow, solver, KEY, num_samples=5),
            bj.sample(flow, solver, KEY),
            jax.jit(bj.losses.endpoint)(flow, solver, few),
            *jax.tree.leaves(conditions.condition_of(conditions.dealt(flow, KEY, 8))),
        ]

    stored, wanted = results()
    assert not isinstance(stored, per_sample.Indexed)
    monkeypatch.setattr(per_sample, "_LARGE", 0)
    stored, found = results()
    assert isinstance(stored, per_sample.Indexed) and per_sample.num_of(stored.conditions) == 3
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def attention(params, t, x):
    """x [B, D] attends to a prefix: keys and values [N, D], which other samples share."""
    c = params["condition"]
    weights = jax.nn.softmax((x + c["text"] + t) @ c["keys"].T)
    return weights @ c["values"] - x


def no_text(condition):
    return condition | {"text": 0 * condition["text"]}


def test_a_large_prefix_is_not_copied_for_each_path_or_probe():
    # 8 MiB of keys and values, of one condition; the weights of attention are 32 KiB a sample.
    prefix = {name: jax.random.normal(KEY, (2**13, 2**7)) for name in ("keys", "values")}
    one = {"text": jnp.zeros(2**7), **prefix}
    flow = bj.Flow(attention, {"condition": one}, (2**7,))
    many = bj.given(flow, jax.tree.map(lambda leaf: leaf[None], one))
    dealt = conditions.dealt(many, KEY, 64)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(prefix))
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(dealt)) < 1.01 * size + 64 * 2**10
    x = flow.noise(KEY, (64,))
    np.testing.assert_allclose(dealt(0.3, x[:64]), flow(0.3, x), rtol=1e-5, atol=1e-6)

    def temporary(flow, x):
        return (
            kernels.velocity_and_slope.lower(flow, jnp.float32(0.3), x).compile().memory_analysis().temp_size_in_bytes
        )

    def probes(flow, x):
        def pulled(flow, x, cotangents):
            return jax.vmap(jax.vjp(lambda x: flow(0.3, x), x)[1])(cotangents)

        return jax.jit(pulled).lower(flow, x, jnp.stack([x] * 4)).compile().memory_analysis().temp_size_in_bytes

    for given in (flow, dealt):
        assert temporary(given, x) - temporary(flow, x) < 0.2 * size
        assert probes(given, x) - probes(flow, x) < 0.2 * size
    guided = [bj.guided(each, 0.5, no_text) for each in (flow, dealt)]
    assert max(temporary(each, x) for each in guided) < 3 * temporary(flow, x) + 0.2 * size


def test_lists_of_numbers_are_arrays_without_a_condition_to_match():
    bare = bj.Flow(lambda params, t, x: params["condition"]["centre"] - x, {}, (2,))
    found = bj.given(bare, {"centre": [[1.0, 0.0], [-0.5, 2.0], [0.0, -1.5]]})
    np.testing.assert_array_equal(found(0.0, X), CENTRES - X)
    with pytest.raises(
        ValueError, match="conditions: wanted lists of equal lengths, or arrays, got lists of different"
    ):
        bj.given(bare, {"centre": [[1.0, 0.0], [-0.5]]})
