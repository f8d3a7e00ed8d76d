"""A denoiser by swirl-dynamics."""

import jax
import jax.numpy as jnp
import numpy as np

import bespoke_jax as bj
from benchmarks.client_models.client import NUM_EXACT, Client
from benchmarks.client_models.training import KEY, energy_distance, trained

POINTS, LAST = 16, 1e-3  # of a wave; the last noise level


def waves(rng: np.random.Generator, number: int) -> np.ndarray:
    """Steep waves on a circle [number, POINTS, 1] of any phase and of one or two crests."""
    place = 2 * np.pi * np.arange(POINTS) / POINTS
    crests, phase = rng.integers(1, 3, size=(number, 1)), 2 * np.pi * rng.random((number, 1))
    steep = 1 + 2 * rng.random((number, 1))
    return np.float32(np.tanh(steep * np.sin(crests * place + phase)) / 0.7)[..., None]


def swirl() -> Client:
    """`PreconditionedDenoiser`, a U-Net, on waves in one dimension; sampled by `OdeSampler` with its Heun method."""
    from swirl_dynamics.lib.diffusion import diffusion, samplers, unets
    from swirl_dynamics.lib.solvers import ode

    from bespoke_jax.adapters.swirl_dynamics import TableIntegrator, scheduler

    network = unets.PreconditionedDenoiser(
        out_channels=1, num_channels=(8, 16), downsample_ratio=(2, 2), num_blocks=1, noise_embed_dim=16,
        use_attention=False, num_heads=1, sigma_data=1.0,
    )  # fmt: skip
    scheme = diffusion.Diffusion.create_variance_exploding(diffusion.tangent_noise_schedule(clip_max=40.0))
    data, weighting = jnp.asarray(waves(np.random.default_rng(0), 20_000)), diffusion.edm_weighting(data_std=1.0)
    levels = diffusion.log_uniform_sampling(scheme, clip_min=LAST)

    def loss(variables, key):
        keys = jax.random.split(key, 3)
        x0, sigma = jax.random.choice(keys[0], data, (128,)), levels(keys[1], (128,))
        noisy = x0 + sigma[:, None, None] * jax.random.normal(keys[2], x0.shape)
        off = network.apply(variables, noisy, sigma, is_training=True) - x0
        return jnp.mean(weighting(sigma)[:, None, None] * off**2)

    first = network.init(KEY, data[:1], jnp.ones(1), is_training=False)
    variables = trained(loss, first, 800)

    def denoise(x, sigma, cond=None):
        return network.apply(variables, x, sigma, is_training=False)

    def steps(number):
        return samplers.edm_noise_decay(scheme, num_steps=number, end_sigma=LAST)

    def run(tspan, **options):
        sampler = samplers.OdeSampler(
            input_shape=(POINTS, 1), scheme=scheme, denoise_fn=denoise, tspan=tspan, apply_denoise_at_end=False,
            **options,
        )  # fmt: skip
        drawn = jax.jit(lambda noise: sampler.denoise(noise, KEY, tspan))
        return lambda: drawn(noise)

    last_time = float(steps(2)[-1])
    ours = scheduler(scheme, last_time)

    def of_flow(variables, t, x):
        return network.apply(variables, x / ours.alpha(t), ours.sigma(t) / ours.alpha(t), is_training=False)

    flow = bj.Flow.from_prediction(of_flow, variables, (POINTS, 1), ours, prediction="data", time_margin=0.0)
    # Fewer than other clients have, for the convolutions are slow on a CPU.
    noise = flow.noise(jax.random.key(1), (NUM_EXACT,))
    return Client(
        model="waves on 16 points by a U-Net",
        flow=flow, test=flow, x0=noise, default="Heun 128",
        own={"Euler 8": (8, run(steps(9), integrator=ode.ExplicitEuler())), "Heun 4": (8, run(steps(5))),
             "Heun 128": (254, run(steps(128)))},
        rtol=1e-4,  # its embedding of the noise level has frequencies that 1e-5 follows in thousands of steps
        with_table=lambda theta: run(steps(2), integrator=TableIntegrator(theta)),
        merit=("energy distance", energy_distance(waves(np.random.default_rng(1), 2000).reshape(2000, -1))),
    )  # fmt: skip
