"""Denoisers, their preconditioning, and their flows under every scheduler, with a network small enough to ask often."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import jit

import bespoke_jax as bj
from bespoke_jax.models import Denoiser, Preconditioning
from bespoke_jax.models.denoiser import denoise
from tests.models.common import relative

SCHEDULERS = ["edm", "vp", "cosine", "condot"]


class Small(nn.Module):
    """Anything smooth in time and image."""

    num_classes: int = 0

    @nn.compact
    def __call__(self, t, x):
        return jnp.tanh(0.7 * x + 0.01 * t[:, None, None, None])


@pytest.fixture(scope="module", params=["edm", "ddpm"])
def model(request):
    if request.param == "ddpm":
        return Denoiser(Small(), {}, (2, 2, 1), Preconditioning.ddpm(np.linspace(1e-4, 0.02, 1000)))
    return Denoiser(Small(), {}, (2, 2, 1), Preconditioning(request.param))


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_flow_follows_the_denoiser_at_every_time(model, name):
    """x' = alpha' D + sigma' (x - alpha D) / sigma, with D at x / alpha and the level sigma / alpha."""
    scheduler = bj.schedulers.by_name(name)
    flow = model.flow(name)
    assert flow.scheduler == scheduler and flow.event_shape == (2, 2, 1)

    @jit
    def both(t, x):
        (alpha, alpha_dot), (sigma, sigma_dot) = (jax.jvp(f, (t,), (1.0,)) for f in (scheduler.alpha, scheduler.sigma))
        x1 = model.denoise(x / alpha, sigma / alpha)
        return flow(t, x), alpha_dot * x1 + sigma_dot * (x - alpha * x1) / sigma

    for t in (0.1, 0.4, 0.88):  # levels within every network's range
        x = scheduler.sigma(t) * np.random.default_rng(0).standard_normal((2, 2, 2, 1)).astype(np.float32)
        assert relative(*both(t, x)) < 2e-4  # (x - D) / sigma of numbers of float32


@pytest.mark.parametrize("name", SCHEDULERS)
def test_flows_are_finite_at_both_ends(model, name):
    flow = model.flow(name)
    velocity = jit(lambda t, x: flow(t, x))
    for t in (0.0, 1e-4, 0.9999, 1.0):
        x = flow.scheduler.sigma(t) * np.random.default_rng(0).standard_normal((2, 2, 2, 1)).astype(np.float32) + 0.1
        assert np.all(np.abs(velocity(t, x)) < 1e4)


@pytest.mark.parametrize("name", ["cosine", "condot"])
def test_levels_beyond_the_network_do_not_jump(model, name):
    """sigma / alpha grows without bound towards t = 0; where it leaves the network's range, the velocity stays continuous."""
    flow = model.flow(name, time_margin=0.0)
    x = jax.random.normal(jax.random.key(0), (2, 2, 2, 1))
    edge = float(flow.scheduler.snr_inverse(1 / model.preconditioning.sigma_max))
    velocity = jit(lambda t: flow(t, x))
    assert relative(velocity(edge * (1 - 1e-4)), velocity(edge * (1 + 1e-4))) < 1e-3


@pytest.mark.parametrize("kind", ["edm", "edm v", "vp", "ve", "noise", "v", "data", "flow"])
def test_a_perfect_network_is_a_perfect_denoiser(kind):
    """Of data that is always mu, the denoiser is mu. What each network has to answer for that follows from its definition."""
    if kind in ("noise", "v", "data"):
        p = Preconditioning.ddpm(np.linspace(1e-4, 0.02, 1000), kind)
    elif kind == "flow":
        p = Preconditioning.flow_matching()
    else:
        p = Preconditioning(kind.split()[0], prediction="v" if kind == "edm v" else "noise")
    mu, level = 0.3, np.array([0.05, 1.0, 20.0], np.float32)
    s = level[:, None, None, None]
    x0 = np.random.default_rng(0).standard_normal((3, 2, 2, 1)).astype(np.float32)
    answers = {
        "vp": x0,
        "noise": x0,
        "ve": -x0,
        "data": mu + 0 * x0,
        "v": (x0 - s * mu) / np.sqrt(1 + s**2),
        "edm": (s * mu - 0.25 * x0) / (0.5 * np.sqrt(s**2 + 0.25)),  # (mu - c_skip y) / c_out
        "edm v": -(s * mu - 0.25 * x0) / (0.5 * np.sqrt(s**2 + 0.25)),
        "flow": x0 - mu,
    }

    class Perfect:
        def apply(self, variables, time, x):
            return answers[kind]

    np.testing.assert_allclose(denoise(Perfect(), p, {}, mu + s * x0, level), mu, atol=2e-5)


def test_a_network_of_flow_matching_is_asked_at_the_share_of_the_noise():
    asked = []

    class Asked:
        num_classes = 0

        def apply(self, variables, time, x):
            asked.append((np.asarray(time), np.asarray(x)))
            return 2 * x

    model = Denoiser(Asked(), {}, (1, 1, 1), Preconditioning.flow_matching(500))
    x = jnp.full((2, 1, 1, 1), 3.0)
    np.testing.assert_allclose(model.flow()(0.25, x), -6.0)  # of the opposite sign
    np.testing.assert_allclose(asked[-1][0], [375.0, 375.0])  # 500 (1 - t)
    # At level 3, a quarter of the straight path's point is data: it is y / 4, and D = y / 4 - 3/4 network.
    np.testing.assert_allclose(model.denoise(x, 3.0), 0.75 - 0.75 * 1.5, rtol=1e-6)
    np.testing.assert_allclose(asked[-1][0], [375.0, 375.0])
    np.testing.assert_allclose(asked[-1][1], 0.75)
    for t in (0.0, 1.0):  # regular at both ends
        np.testing.assert_allclose(model.flow("condot")(t, x), -6.0)
    assert model.flow("condot", time_margin=0.1).time_range == (0.1, 0.9)


def test_the_same_noise_reaches_the_same_image_under_every_scheduler():
    """Theorem 2.3: a change of scheduler leaves the coupling as it is, up to where the paths begin and end."""
    model = Denoiser(Small(), {}, (2, 2, 1), Preconditioning("edm"))
    images = [
        bj.sample(model.flow(name), bj.classic.midpoint(256), jax.random.key(0), num_samples=4) for name in SCHEDULERS
    ]
    for image in images[1:]:
        np.testing.assert_allclose(image, images[0], atol=0.02)
    assert np.std(images[0]) > 0.3


def test_bad_preconditioning_is_named():
    for options, message in [
        (dict(kind="iddpm"), "kind: wanted one of"),
        (dict(kind="edm", sigma_min=3.0, sigma_max=2.0), "sigma_min"),
        (dict(kind="ddpm", prediction="score"), "prediction: wanted one of"),
        (dict(kind="vp", prediction="v"), "prediction: wanted one of"),
        (dict(kind=["edm"]), "kind: wanted one of"),
        (dict(kind="edm", sigma_min=float("nan")), "sigma_min: wanted a finite number > 0, got nan"),
        (dict(kind="edm", sigma_max=float("inf")), "sigma_max: wanted a finite number > 0, got inf"),
        (dict(kind="edm", sigma_data="0.5"), "sigma_data: wanted a finite number > 0, got '0.5'"),
        (dict(kind="edm", sigma_data=0), "sigma_data: wanted a finite number > 0, got 0"),
        (dict(kind="vp", beta_min=-1.0), "beta_min: wanted a finite number >= 0"),
        (dict(kind="vp", beta_min=0.0, beta_d=0.0), "wanted beta_min \\+ beta_d > 0"),
        (dict(kind="vp", steps=1000.0), "steps: wanted an integer >= 1, got 1000.0"),
        (dict(kind="ddpm", betas=(0.1, float("nan"))), "betas: wanted a number from 0 to 1, got nan"),
        (dict(kind="ddpm"), "betas: wanted"),
    ]:
        with pytest.raises(ValueError, match=message):
            Preconditioning(**options)
    with pytest.raises(ValueError, match=r"betas: wanted a list of numbers within \(0, 1\)"):
        Preconditioning.ddpm([0.1, 1.0])
    with pytest.raises(ValueError, match="steps: wanted an integer >= 3"):
        Preconditioning.flow_matching(1)
    with pytest.raises(TypeError, match="betas: wanted a tuple of numbers, got list"):
        Preconditioning("ddpm", betas=[0.1])
    with pytest.raises(TypeError, match="preconditioning: wanted a Preconditioning, got str"):
        Denoiser(Small(), {}, (2, 2, 1), "edm")


def test_a_sigma_of_another_shape_is_named(model):
    with pytest.raises(ValueError, match=r"sigma \[\] or \[B\], got \(2, 2, 2, 1\) and \(3,\)"):
        model.denoise(jnp.zeros((2, 2, 2, 1)), jnp.ones(3))
