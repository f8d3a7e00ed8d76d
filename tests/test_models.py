"""The U-Net, flow files, and the shipped flow: that its solvers really are better, on fresh noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import jit

import bespoke_jax as bj
from bespoke_jax.fitting.gauss_newton import evaluate


@pytest.fixture(scope="module")
def network():
    return bj.models.UNet(channels=(8, 16), num_blocks=(1, 1), head_channels=4, num_heads=2)


@pytest.fixture(scope="module")
def params(network):
    # Only the shapes from `init`: compiling it takes longer than all that is done here. No zeros, so that every layer matters.
    shapes = jax.eval_shape(network.init, jax.random.key(0), 0.5, jnp.zeros((1, 8, 8, 1)))
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda s: jnp.asarray(0.2 * rng.standard_normal(s.shape), s.dtype), shapes)


@pytest.fixture(scope="module")
def shipped():
    return bj.models.load_flow("fashion_fmot")


@pytest.mark.slow
def test_samples_of_a_batch_do_not_see_each_other(network, params):
    x = jax.random.normal(jax.random.key(2), (3, 8, 8, 1))
    together = jit(network.apply)(params, 0.3, x)
    alone = jnp.concatenate([jit(network.apply)(params, 0.3, x[i : i + 1]) for i in range(3)])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)


def test_bfloat16_compute_keeps_a_float32_state(network, params):
    half = network.clone(dtype=jnp.bfloat16)
    x = jax.random.normal(jax.random.key(2), (2, 8, 8, 1))
    out = jit(half.apply)(params, 0.3, x)
    assert out.dtype == jnp.float32
    full = jit(network.apply)(params, 0.3, x)
    assert float(jnp.linalg.norm(out - full) / jnp.linalg.norm(full)) < 0.05


def test_an_image_that_cannot_be_halved_is_refused(network):
    with pytest.raises(ValueError, match="divisible by 4"):
        network.init(jax.random.key(0), 0.5, jnp.zeros((1, 10, 8, 1)))


def test_a_flow_file_gives_the_same_flow(tmp_path, network, params):
    bj.models.save_flow(tmp_path / "f.safetensors", network, params, (8, 8, 1), "cosine", dtype=jnp.float32)
    flow = bj.models.load_flow(tmp_path / "f.safetensors")
    x = jax.random.normal(jax.random.key(2), (2, 8, 8, 1))
    np.testing.assert_allclose(jit(flow)(0.3, x), jit(network.apply)(params, 0.3, x), rtol=1e-5, atol=1e-6)
    assert flow.scheduler == bj.schedulers.Cosine() and flow.event_shape == (8, 8, 1)


def test_two_loads_share_what_is_compiled():
    one, two = (bj.models.load_flow("fashion_fmot") for _ in range(2))
    assert jax.tree.structure(one) == jax.tree.structure(two)


@pytest.mark.parametrize("name, error", [("fashion", ValueError), ("nowhere.safetensors", FileNotFoundError)])
def test_an_unknown_flow_is_named(name, error):
    with pytest.raises(error, match=name):
        bj.models.load_flow(name)


def test_a_truncated_flow_file_is_refused(tmp_path, network, params):
    path = tmp_path / "f.safetensors"
    bj.models.save_flow(path, network, params, (8, 8, 1), "condot")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="truncated"):
        bj.models.load_flow(path)


def test_the_shipped_flow_makes_images_like_its_data(shipped):
    # Fashion-MNIST in [-1, 1] has mean -0.43 and standard deviation 0.71 over all pixels.
    x = bj.sample(shipped, bj.classic.midpoint(16), jax.random.key(0), num_samples=24)
    assert abs(float(x.mean()) + 0.43) < 0.12
    assert abs(float(x.std()) - 0.71) < 0.1
    assert float(jnp.mean((x > -1.15) & (x < 1.15))) > 0.97


@pytest.fixture(scope="module")
def fresh(shipped):
    # Noise of another key than any that experiments.train draws. 1e-3 is far finer than the errors compared.
    return bj.ground_truth(shipped, shipped.noise(jax.random.key(77), (16,)), 1e-3, 1e-3)


def decibels(flow, start, theta, paths):
    """Mean over samples of the gain in PSNR."""
    before, after = (float(evaluate(bj.losses.Endpoint(), flow, solver, paths)) for solver in (start, theta))
    return 10 * (before - after) / np.log(10)


# Over 256 noises the gains are between 7.3 and 10.4 dB (rk2), 7.3 and 7.4 (rk1), 8.5 and 20 (table): docs/shipped_flow.md.
@pytest.mark.parametrize(
    "base, num_steps, gain",
    [
        pytest.param("rk2", 4, 4, marks=pytest.mark.slow),
        ("rk2", 5, 4),
        pytest.param("rk2", 8, 4, marks=pytest.mark.slow),
        pytest.param("rk2", 10, 4, marks=pytest.mark.slow),
        ("rk1", 8, 4),
        pytest.param("rk1", 10, 4, marks=pytest.mark.slow),
        ("table", 4, 5),
        pytest.param("table", 6, 8, marks=pytest.mark.slow),
        ("table", 8, 8),
        pytest.param("table", 10, 8, marks=pytest.mark.slow),
    ],
)
def test_shipped_solvers_beat_their_base_on_fresh_noise(shipped, fresh, base, num_steps, gain):
    theta = bj.models.shipped_solver("fashion_fmot", base, num_steps)
    plain = bj.init_theta("rk2", num_steps // 2) if base == "table" else bj.init_theta(base, num_steps)
    assert decibels(shipped, plain, theta, fresh) > gain


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("fashion_fmot_class", marks=pytest.mark.slow),
        pytest.param("fashion_cosine_class", marks=pytest.mark.slow),
        pytest.param("fashion_vp_class", marks=pytest.mark.slow),
    ],
)
def test_one_solver_serves_all_classes_of_a_shipped_flow(name):
    flow = bj.models.load_flow(name, labels=np.arange(10))
    paths = bj.ground_truth(flow, flow.noise(jax.random.key(77), (10,)), 1e-3, 1e-3)
    for base, num_steps, gain in (("rk2", 5, 2), ("table", 8, 5)):
        theta = bj.models.shipped_solver(name, base, num_steps)
        plain = bj.init_theta("rk2", theta.nfe // 2)
        assert decibels(flow, plain, theta, paths) > gain
    # Trousers (1) are narrower than pullovers (2), sandals (5) darker than either.
    images = np.asarray(paths.x1)[..., 0]
    assert np.mean(images[1] > 0) < np.mean(images[2] > 0) and np.mean(images[5]) < np.mean(images[2])


def test_a_solver_that_was_not_learned_is_named():
    with pytest.raises(ValueError, match=r"rk2-bespoke-n5.* got 'rk2' with 7 steps"):
        bj.models.shipped_solver("fashion_fmot", "rk2", 7)


@pytest.mark.slow
@pytest.mark.parametrize("base, num_steps", [("rk2", 4), ("rk1", 8)])
def test_the_default_fit_gains_three_decibels_on_the_shipped_flow(shipped, fresh, base, num_steps):
    start = bj.init_theta(base, num_steps)
    theta = bj.fit(shipped, start, jax.random.key(0)).theta
    assert decibels(shipped, start, theta, fresh) > 3
