"""Classifier-free guidance: what it adds up to, in one call of the network; classes and scales share what is compiled."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import jit

import bespoke_jax as bj
from bespoke_jax.models.labels import with_labels

NETWORK = bj.models.UNet(channels=(8,), num_blocks=(1,), head_channels=4, num_heads=0, num_classes=3)
X = jax.random.normal(jax.random.key(2), (2, 4, 4, 1))


@pytest.fixture(scope="module")
def variables():
    shapes = jax.eval_shape(NETWORK.init, jax.random.key(0), 0.5, X)
    rng = np.random.default_rng(1)  # no zeros, so that every layer matters
    return jax.tree.map(lambda s: jnp.asarray(0.3 * rng.standard_normal(s.shape), s.dtype), shapes)


def flow_of(variables, label, prediction):
    """Of one class; of none for label -1."""
    weights = (jnp.arange(3) == label).astype(jnp.float32)
    if prediction == "denoiser":
        denoiser = bj.models.Denoiser(NETWORK, variables, (4, 4, 1), bj.models.Preconditioning("edm"))
        return denoiser.flow("vp", labels=weights)
    return bj.Flow.from_prediction(
        bj.models.NetworkVelocity(NETWORK),
        with_labels(variables, weights, 3),
        (4, 4, 1),
        bj.schedulers.VariancePreserving(),
        prediction,
    )


@pytest.mark.parametrize("prediction", ["velocity", "noise", "denoiser"])
def test_guidance_is_two_velocities(variables, prediction):
    with_class, without = (flow_of(variables, label, prediction) for label in (1, -1))
    velocity = jit(lambda flow: flow(0.3, X))
    of_class, of_none = velocity(with_class), velocity(without)
    assert float(jnp.abs(of_class - of_none).max()) > 0.01
    found = {w: velocity(bj.guided(with_class, w)) for w in (0.0, -1.0, 1.5, 3.0)}
    close = dict(rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found[0.0], of_class, **close)
    np.testing.assert_allclose(found[-1.0], of_none, **close)
    np.testing.assert_allclose(found[1.5], 2.5 * of_class - 1.5 * of_none, **close)
    np.testing.assert_allclose(found[3.0] - found[1.5], found[1.5] - found[0.0], **close)


def test_the_network_is_called_once(variables):
    def convolutions(flow):
        return str(jax.make_jaxpr(lambda x: flow(0.3, x))(X)).count("conv_general_dilated[")

    flow = flow_of(variables, 1, "velocity")
    assert convolutions(bj.guided(flow, 2.0)) == convolutions(flow) > 0
    assert (flow.calls_per_evaluation, bj.guided(flow, 2.0).calls_per_evaluation) == (1, 2)


def test_classes_and_scales_share_what_is_compiled(variables):
    solver, solve = bj.init_theta("rk1", 2), jax.jit(lambda *arguments: bj.solve(*arguments))  # a cache of its own
    ends = [solve(bj.guided(flow_of(variables, c, "velocity"), w), solver, X) for c, w in ((0, 1), (1, 1.0), (1, 2.0))]
    assert solve._cache_size() == 1
    assert not np.allclose(ends[0], ends[1]) and not np.allclose(ends[1], ends[2])


def pull(params, t, x):
    """Towards a point that a strength and a place say."""
    return params["condition"]["strength"] * (params["condition"]["place"] - x)


def test_any_condition_and_any_word_for_none():
    condition, none = dict(strength=jnp.float32(2.0), place=jnp.ones(3)), dict(strength=1.0, place=np.zeros(3))
    flow = bj.Flow(pull, {"condition": condition}, (3,))
    x = jnp.array([[0.5, 0.0, 1.0]])
    np.testing.assert_allclose(bj.guided(flow, 2.0, none)(0.0, x), 3 * 2.0 * (1 - x) - 2 * (0 - x), rtol=1e-6)


def test_a_guided_flow_has_paths_and_fits():
    flow = bj.guided(bj.Flow(pull, {"condition": dict(strength=jnp.float32(2.0), place=jnp.ones(3))}, (3,)), 0.5)
    paths = bj.ground_truth(flow, flow.noise(jax.random.key(0), (8,)))
    # u = 1.5 * 2 (1 - x): towards 1 at the rate 3.
    np.testing.assert_allclose(paths.x1, 1 + (paths.x0 - 1) * np.exp(-3), atol=1e-4)
    stage = bj.Stage("endpoint", 8, batch_size=8)
    result = bj.fit(
        flow, bj.init_theta("rk1", 4), jax.random.key(1), bj.Recipe(stages=(stage,)), paths=paths, validation=paths
    )
    assert result.history[-1]["psnr"] > result.history[0]["psnr"] + 10
    # Evaluations are counted alike with and without guidance; each is two calls of the network.
    assert result.cost == result.history[-1]["evaluations"] and result.network_calls == 2 * result.cost


@pytest.mark.parametrize(
    ("guidance_scale", "calls", "said"), [(None, 4, "(NFE 4, "), (0.5, 8, "(NFE 4 = 8 network calls, ")]
)
def test_a_check_says_what_its_evaluations_are_to_the_network(guidance_scale, calls, said):
    flow = bj.Flow(pull, {"condition": dict(strength=jnp.float32(2.0), place=jnp.ones(3))}, (3,))
    flow = flow if guidance_scale is None else bj.guided(flow, guidance_scale)
    found = bj.check_solver(flow, bj.classic.euler(4), jax.random.key(0), num_paths=4, others={})
    assert (found.nfe, found.network_calls) == (4, calls) and said in str(found)


def test_what_cannot_be_guided_is_named(variables):
    flow = flow_of(variables, 1, "velocity")
    with pytest.raises(ValueError, match=r"entry 'condition', got the entries \['params'\]"):
        bj.guided(bj.Flow(pull, {"params": 1.0}, (3,)), 1.0)
    with pytest.raises(ValueError, match="entry 'condition', got NoneType"):
        bj.guided(bj.Flow(pull, None, (3,)), 1.0)
    for scale in ([1.0, 2.0], np.nan, np.inf, -np.inf, 1j, True, "2", None, 1e39):
        with pytest.raises(ValueError, match="guidance_scale: wanted one finite number, got "):
            bj.guided(flow, scale)
    with pytest.raises(ValueError, match=r"one sample's condition, {'label': \(3,\)}, got {'label': \(4,\)}"):
        bj.guided(flow, 1.0, {"label": jnp.zeros(4)})
    with pytest.raises(ValueError, match=r"unconditional\['label'\]: wanted a float, got a boolean"):
        bj.guided(flow, 1.0, {"label": jnp.zeros(3, bool)})
    with pytest.raises(TypeError, match=r"flow: wanted a bespoke_jax\.Flow, got UNet"):
        bj.guided(NETWORK, 1.0)


# --- A condition of which a part stays: the mask of a padded text. ---


def masked(params, t, x):
    return (params["condition"]["text"].sum() * jnp.cos(x) - x) * params["condition"]["mask"]


def without_text(condition):
    return condition | {"text": jnp.zeros_like(condition["text"])}


TEXT, MASK = jnp.ones((3, 4)), jnp.arange(8) < jnp.array([[3], [5], [8]])
MASKED = bj.Flow(masked, {"condition": {"text": TEXT[0], "mask": MASK[0]}}, (8,))
PADDED = jax.random.normal(jax.random.key(0), (3, 8))


@pytest.mark.parametrize("order", ["given, then guided", "guided, then given"])
def test_a_function_says_what_of_a_condition_goes(order):
    conditions = {"text": TEXT, "mask": MASK}
    if order == "given, then guided":
        flow = bj.guided(bj.given(MASKED, conditions), 1.5, without_text)
    else:
        flow = bj.given(bj.guided(MASKED, 1.5, without_text), conditions)
    wanted = (2.5 * (4 * np.cos(PADDED) - PADDED) - 1.5 * -PADDED) * MASK
    np.testing.assert_allclose(flow(0.0, PADDED), wanted, rtol=1e-5, atol=1e-5)
    # The paths of a guided flow of conditions are those of each sample by itself.
    x1 = bj.solve(flow, bj.classic.euler(3), PADDED)
    one = bj.guided(bj.Flow(masked, {"condition": {"text": TEXT[1], "mask": MASK[1]}}, (8,)), 1.5, without_text)
    np.testing.assert_allclose(x1[1], bj.solve(one, bj.classic.euler(3), PADDED[1]), rtol=1e-5, atol=1e-5)


def test_flows_with_one_function_share_what_is_compiled():
    solve = jax.jit(lambda *arguments: bj.solve(*arguments))
    for w, text in ((0.5, TEXT[0]), (2.0, 2 * TEXT[0])):
        flow = bj.Flow(masked, {"condition": {"text": text, "mask": MASK[0]}}, (8,))
        solve(bj.guided(flow, w, without_text), bj.classic.euler(2), PADDED)
    assert solve._cache_size() == 1


@pytest.mark.parametrize(
    ("unconditional", "message"),
    [
        ({"text": jnp.zeros(4)}, r"unconditional: wanted the shapes of one sample's condition, .*'mask': \(8,\)"),
        (
            {"text": jnp.zeros((3, 4)), "mask": MASK},
            "for a value that depends on the sample, give a function of its condition",
        ),
        (lambda c: c["text"], "unconditional: wanted the shapes of one sample's condition"),
        (lambda c: c | {"mask": jnp.zeros(8)}, r"unconditional\['mask'\]: wanted a boolean, got a float"),
    ],
)
def test_what_is_not_like_the_condition(unconditional, message):
    with pytest.raises(ValueError, match=message):
        bj.guided(bj.given(MASKED, {"text": TEXT, "mask": MASK}), 1.0, unconditional)


def test_zeros_for_masks_and_classes_are_warned_of():
    with pytest.warns(UserWarning, match=r"zeros in the place of condition\['mask'\] \(bool\): ") as caught:
        inspect.unwrap(bj.guided)(MASKED, 1.0)
    assert caught[0].filename == __file__
    of_class = bj.Flow(pull, {"condition": {"label": jnp.int32(3), "place": jnp.zeros(3)}}, (3,))
    with pytest.warns(UserWarning, match=r"condition\['label'\] \(int32\)"):
        bj.guided(of_class, 1.0)
    # Who says so gets zeros, or another class, without a warning.
    for label in (0, 10):
        flow = bj.guided(of_class, 1.0, {"label": label, "place": jnp.zeros(3)})
        assert flow.params["unconditional"]["label"].dtype == jnp.int32
    with pytest.raises(ValueError, match=r"unconditional\['label'\]: wanted an integer, got a float"):
        bj.guided(of_class, 1.0, {"label": 0.5, "place": jnp.zeros(3)})


def test_guidance_of_guidance_is_four_calls():
    flow = bj.Flow(pull, {"condition": dict(strength=jnp.float32(2.0), place=jnp.ones(3))}, (3,))
    inner = bj.guided(flow, 0.5, dict(strength=jnp.float32(2.0), place=jnp.zeros(3)))
    outer = bj.guided(inner, 2.0, dict(strength=jnp.float32(2.0), place=-jnp.ones(3)))
    assert (inner.calls_per_evaluation, outer.calls_per_evaluation) == (2, 4)
    assert bj.given(outer, dict(strength=jnp.ones(2), place=jnp.ones((2, 3)))).calls_per_evaluation == 4
    x = jnp.array([0.5, 0.0, 1.0])
    at = {place: 2.0 * (place - x) for place in (1, 0, -1)}
    wanted = 3 * (1.5 * at[1] - 0.5 * at[0]) - 2 * (1.5 * at[-1] - 0.5 * at[0])
    np.testing.assert_allclose(outer(0.0, x), wanted, rtol=1e-6)


def test_guidance_by_the_same_unconditional_is_not_repeated():
    flow = bj.Flow(pull, {"condition": dict(strength=jnp.float32(2.0), place=jnp.ones(3))}, (3,))
    nowhere = dict(strength=jnp.float32(2.0), place=jnp.zeros(3))
    each = bj.given(flow, dict(strength=jnp.ones(2), place=jnp.ones((2, 3))))
    for one, unconditional in ((flow, None), (flow, nowhere), (flow, no_place), (each, None), (each, no_place)):
        strong = bj.guided(one, 1.5, unconditional)
        with pytest.raises(ValueError, match="flow: wanted one that is not guided by the same `unconditional` already"):
            bj.guided(strong, 1.5, unconditional)
    assert bj.guided(bj.guided(flow, 1.5, no_place), 1.5, nowhere).calls_per_evaluation == 4


def no_place(condition):
    return condition | {"place": 0 * condition["place"]}
