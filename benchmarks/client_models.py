"""The models of `benchmarks.clients`, each trained and sampled as its library does it."""

import functools
import tempfile

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optax

import bespoke_jax as bj
from benchmarks.clients import NUM_EXACT, NUM_SAMPLES, Client

KEY = jax.random.key(0)


def moons(rng: np.random.Generator, number: int) -> np.ndarray:
    """Two moons of noise 0.05, centred, with a standard deviation near one."""
    upper = rng.random(number) < 0.5
    angle = np.pi * rng.random(number)
    points = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    points = np.where(upper[:, None], points, [1.0, 0.5] - points)
    return np.float32(1.5 * (points - [0.5, 0.25]) + 0.05 * rng.standard_normal((number, 2)))


def energy_distance(reference: np.ndarray):
    """A function of samples: the square root of their energy distance to `reference`, on 2,000 of each."""
    reference = reference[:2000]

    def apart(a, b):
        return np.sqrt(np.maximum(0, (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T)).mean()

    def of(samples):
        samples = np.float64(samples[:2000])
        return float(max(0, 2 * apart(samples, reference) - apart(samples, samples) - apart(reference, reference)) ** 0.5)

    return of


def torch_moons() -> Client:
    """torchcfm's MLP and loss in PyTorch, never ported; tables as code for PyTorch."""
    import torch
    from torchcfm.conditional_flow_matching import ConditionalFlowMatcher
    from torchcfm.models import MLP

    from bespoke_jax.adapters import torch as from_torch

    torch.manual_seed(0)
    rng, net, matcher = np.random.default_rng(0), MLP(dim=2, time_varying=True), ConditionalFlowMatcher(sigma=0.0)
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    for _ in range(1500):
        x1 = torch.tensor(moons(rng, 256))
        t, xt, ut = matcher.sample_location_and_conditional_flow(torch.randn_like(x1), x1)
        loss = torch.mean((net(torch.cat([xt, t[:, None]], dim=1)) - ut) ** 2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    net.eval()

    def model(t, x):
        return net(torch.cat([x, t[:, None]], dim=1))

    noise = torch.randn(NUM_SAMPLES, 2)

    def at(t, x):
        return model(torch.full((len(x),), t), x)

    @torch.no_grad()
    def euler(steps):
        x = noise
        for i in range(steps):
            x = x + at(i / steps, x) / steps
        return x

    @torch.no_grad()
    def midpoint(steps):
        x = noise
        for i in range(steps):
            x = x + at((i + 0.5) / steps, x + at(i / steps, x) / (2 * steps)) / steps
        return x

    def with_table(theta):
        names = {}
        exec(bj.export_code(theta, "torch"), names)
        return torch.no_grad()(lambda: names["sample"](at, noise))

    flow = from_torch.flow(model, (2,), bj.schedulers.CondOT())
    return Client(
        model="two moons by torchcfm in PyTorch",
        flow=flow, test=flow, x0=jax.numpy.asarray(noise.numpy()), with_table=with_table, default="Euler 100",
        own={
            "Euler 8": (8, lambda: euler(8)), "midpoint 4": (8, lambda: midpoint(4)),
            "Euler 100": (100, lambda: euler(100)), "midpoint 50": (100, lambda: midpoint(50)),
        },
        merit=("energy distance", energy_distance(moons(np.random.default_rng(1), 2000))),
    )  # fmt: skip


def trained(loss, params, num_steps: int, rate: float = 2e-3):
    """The parameters after Adam on `loss(params, key)`, in one compiled loop."""
    optimizer = optax.adam(optax.cosine_decay_schedule(rate, num_steps))

    def update(state, key):
        params, moments = state
        change, moments = optimizer.update(jax.grad(loss)(params, key), moments)
        return (optax.apply_updates(params, change), moments), None

    keys = jax.random.split(KEY, num_steps)
    return jax.jit(lambda state: jax.lax.scan(update, state, keys))((params, optimizer.init(params)))[0][0]


def layers(sizes: tuple[int, ...]) -> list:
    """The weights of a network of dense layers."""
    keys = jax.random.split(KEY, len(sizes))
    pairs = zip(keys[1:], sizes[:-1], sizes[1:], strict=True)
    return [(jax.random.normal(key, pair) / pair[0] ** 0.5, jnp.zeros(pair[1])) for key, *pair in pairs]


def dense(weights: list, x: jax.Array) -> jax.Array:
    """The network of dense layers."""
    for weight, bias in weights[:-1]:
        x = jax.nn.silu(x @ weight + bias)
    return x @ weights[-1][0] + weights[-1][1]


def column(t, x: jax.Array) -> jax.Array:
    """t for each sample of x, [B, 1]."""
    return jnp.broadcast_to(jnp.reshape(t, (-1, 1)), (len(x), 1))


def two_moons(key, theta: jax.Array) -> jax.Array:
    """The simulator: x [B, 2] for parameters [B, 2]."""
    keys = jax.random.split(key)
    angle = jnp.pi * (jax.random.uniform(keys[0], (len(theta),)) - 0.5)
    radius = 0.1 + 0.01 * jax.random.normal(keys[1], (len(theta),))
    moon = radius[:, None] * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1) + jnp.array([0.25, 0.0])
    total, difference = theta[:, 0] + theta[:, 1], theta[:, 1] - theta[:, 0]
    return moon + jnp.stack([-jnp.abs(total), difference], axis=1) / 2**0.5


def two_moons_posterior(rng: np.random.Generator, number: int) -> np.ndarray:
    """Exact samples of the posterior at x = 0, whose prior is uniform on [-1, 1]^2."""
    angle, radius = np.pi * (rng.random(number) - 0.5), 0.1 + 0.01 * rng.standard_normal(number)
    total = np.where(rng.random(number) < 0.5, 1, -1) * 2**0.5 * (radius * np.cos(angle) + 0.25)
    difference = -(2**0.5) * radius * np.sin(angle)
    return np.stack([total - difference, total + difference], axis=1) / 2


def gensbi() -> Client:
    """Two moons by GenSBI's `ConditionalPipeline` with its `FlowMatchingMethod` and a small NNX network."""
    from flax import nnx
    from gensbi.core.flow_matching import FlowMatchingMethod
    from gensbi.diagnostics.metrics import c2st
    from gensbi.recipes.conditional_pipeline import ConditionalPipeline

    from bespoke_jax.adapters import nnx as from_nnx
    from bespoke_jax.adapters.diffrax import TableSolver

    class Net(nnx.Module):
        def __init__(self, rngs):
            sizes = (5, 128, 128, 128, 2)
            self.parts = nnx.List([nnx.Linear(a, b, rngs=rngs) for a, b in zip(sizes[:-1], sizes[1:], strict=True)])

        def __call__(self, t, obs, obs_ids, cond, cond_ids, conditioned=True, guidance=None):
            cond = jnp.broadcast_to(cond, (len(obs), 2, 1))[..., 0]
            x = jnp.concatenate([obs[..., 0], cond, column(t, obs)], axis=1)
            for part in self.parts[:-1]:
                x = nnx.silu(part(x))
            return self.parts[-1](x)[..., None]

    theta = jax.random.uniform(KEY, (20_000, 2), minval=-1, maxval=1)
    x = two_moons(jax.random.key(1), theta)

    def batches(seed):
        rng, pairs = np.random.default_rng(seed), (np.asarray(theta), np.asarray(x))
        while True:
            kept = rng.integers(len(theta), size=256)
            yield tuple(jnp.asarray(array[kept])[..., None] for array in pairs)

    config = ConditionalPipeline.get_default_training_config()
    config |= dict(max_lr=2e-3, min_lr=1e-5, ema_decay=0.99, early_stopping=False, warmup_steps=100)
    config |= dict(nsteps=4000, checkpoint_dir=tempfile.mkdtemp())
    pipeline = ConditionalPipeline(
        Net(nnx.Rngs(0)), batches(0), batches(1), dim_obs=2, dim_cond=2, method=FlowMatchingMethod(), training_config=config
    )
    pipeline.train(nnx.Rngs(0, val_step=1), save_model=False)

    def run(**options):
        sampler = pipeline.get_sampler(jnp.zeros((1, 2, 1)), **options)
        return lambda: sampler(KEY, NUM_SAMPLES)

    def call(net, t, x, seen):
        return net(t, x, None, seen, None)

    pipeline.ema_model.eval()
    make = functools.partial(from_nnx.flow, pipeline.ema_model, (2, 1), bj.schedulers.CondOT(), call=call)
    posterior = two_moons_posterior(np.random.default_rng(0), 2000)
    return Client(
        model="the posterior of two moons at x = 0; the tables learned from 256 other observations",
        flow=bj.given(make(condition=jnp.zeros((2, 1))), x[:256, :, None]), test=make(condition=jnp.zeros((2, 1))),
        x0=pipeline.method.sample_init(jax.random.split(KEY)[1], NUM_SAMPLES), default="Euler 100",
        own={"Euler 8": (8, run(step_size=1 / 8)), "midpoint 4": (8, run(step_size=1 / 4, method=diffrax.Midpoint())),
             "Euler 100": (100, run())},
        with_table=lambda theta: run(method=TableSolver(theta), step_size=1.0),
        merit=("C2ST", lambda samples: float(c2st(posterior, samples[:2000]))),
    )  # fmt: skip


def hackable() -> Client:
    """The network, loss and sampler of hackable_diffusion's notebook in two dimensions."""
    from hackable_diffusion import hd
    from hackable_diffusion.lib.architecture import conditioning_encoder, mlp
    from hackable_diffusion.lib.corruption import gaussian, schedules
    from hackable_diffusion.lib.diffusion_network import DiffusionNetwork
    from hackable_diffusion.lib.inference import diffusion_inference, wrappers
    from hackable_diffusion.lib.sampling import gaussian_step_sampler, sampling, time_scheduling
    from hackable_diffusion.lib.training import gaussian_loss, time_sampling

    from bespoke_jax.adapters import hackable_diffusion, linen

    network = DiffusionNetwork(
        backbone_network=mlp.ConditionalMLP(
            hidden_sizes_preprocess=[64, 64], hidden_sizes_postprocess=[64, 64], activation="gelu",
            zero_init_output=False, dropout_rate=0.0, conditioning_mechanism="concatenate",
        ),
        conditioning_encoder=conditioning_encoder.ConditioningEncoder(
            time_embedder=conditioning_encoder.SinusoidalTimeEmbedder(
                activation="gelu", embedding_dim=64, num_features=64
            ),
            conditioning_embedders={},
            merge_embeddings_fn=conditioning_encoder.ConcatEmbeddings(),
            conditioning_rules={"time": "concatenate"},
        ),
        prediction_type="velocity",
    )  # fmt: skip
    process, data = gaussian.GaussianProcess(schedule=schedules.RFSchedule()), jnp.asarray(moons(np.random.default_rng(0), 20_000))
    times = time_sampling.UniformTimeSampler(span=hd.jax_helpers.SafeSpan(safety_epsilon=1e-3))
    loss_fn = gaussian_loss.NoWeightGaussianLoss()

    def loss(params, key):
        keys = jax.random.split(key, 3)
        x0 = jax.random.choice(keys[0], data, (256,))
        time = times(key=keys[1], data_spec=x0)
        xt, targets = process.corrupt(key=keys[2], x0=x0, time=time)
        found = network.apply({"params": params}, time=time, xt=xt, conditioning=None, is_training=True)
        return jnp.mean(loss_fn(preds=found, targets=targets, time=time))

    first = network.initialize_variables(input_shape=(1, 2), conditioning_shape=None, key=KEY)["params"]
    params = trained(loss, first, 3000)
    inference = diffusion_inference.GuidedDiffusionInferenceFn(
        base_inference_fn=wrappers.FlaxLinenInferenceFn(network=network, params=params)
    )
    noise = jax.random.normal(jax.random.key(1), (NUM_SAMPLES, 2))

    def run(sampler):
        drawn = jax.jit(lambda noise: sampler(inference_fn=inference, rng=KEY, initial_noise=noise)[0].xt)
        return lambda: drawn(noise)

    def ddim(calls):
        step = gaussian_step_sampler.DDIMStep(corruption_process=process, stoch_coeff=0.0)
        schedule = time_scheduling.UniformTimeSchedule()
        return calls, run(sampling.DiffusionSampler(time_schedule=schedule, stepper=step, num_steps=calls + 1))

    def call(network, t, x):
        found = network(time=jnp.full((len(x), 1), 1 - t), xt=x, conditioning=None, is_training=False)
        return -found["velocity"]

    flow = linen.flow(network, {"params": params}, (2,), bj.schedulers.CondOT(), call=call)
    return Client(
        model="two moons by the notebook's network",
        flow=flow, test=flow, x0=noise, default="DDIM 99", own={"DDIM 8": ddim(8), "DDIM 99": ddim(99)},
        with_table=lambda theta: run(hackable_diffusion.sampler(theta, process)),
        merit=("energy distance", energy_distance(moons(np.random.default_rng(1), 2000))),
    )  # fmt: skip


def diffusionlab() -> Client:
    """A denoiser under diffusionlab's EDM process, with EDM's preconditioning."""
    from diffusionlab.processes.gaussian import EDM
    from diffusionlab.sampling import DDMSampler, EulerSampler, sample, uniform_schedule
    from diffusionlab.typing import Prediction

    from bespoke_jax.adapters import diffusionlab

    process, data = EDM(data_shape=(2,)), jnp.asarray(moons(np.random.default_rng(0), 20_000))

    def denoised(weights, x, sigma):
        inside = jnp.concatenate([x / jnp.sqrt(1 + sigma**2), jnp.log(sigma) / 4], axis=1)
        return x / (1 + sigma**2) + sigma / jnp.sqrt(1 + sigma**2) * dense(weights, inside)

    def loss(weights, key):
        keys = jax.random.split(key, 3)
        x0 = jax.random.choice(keys[0], data, (256,))
        sigma = jnp.exp(1.2 * jax.random.normal(keys[1], (256, 1)) - 0.8)
        xt = x0 + sigma * jax.random.normal(keys[2], x0.shape)
        return jnp.mean((1 + 1 / sigma**2) * (denoised(weights, xt, sigma) - x0) ** 2)

    weights = trained(loss, layers((3, 128, 128, 2)), 3000)

    def predictor(x, s, t, cond, aux):
        return Prediction(value=denoised(weights, x, column(process.sigma(t), x)), kind="x_0")

    def run(sampler, schedule):
        drawn = jax.jit(lambda key: sample(key, sampler, predictor, NUM_SAMPLES, schedule))
        return lambda: drawn(KEY)

    def own(kind, calls):
        return calls, run(kind(process), uniform_schedule(calls, NUM_SAMPLES))

    def network(weights, t, x):
        return denoised(weights, x, column(scheduler.sigma(t), x))

    scheduler = bj.schedulers.EDM()  # the library's levels, at 1 - t
    flow = bj.Flow.from_prediction(network, weights, (2,), scheduler, prediction="data")
    return Client(
        model="two moons under the EDM process",
        flow=flow, test=flow, default="Euler 100",
        x0=process.sample_from_terminal(jax.random.split(KEY, 3)[1], NUM_SAMPLES)[0],
        own={"DDIM 8": own(DDMSampler, 8), "Euler 8": own(EulerSampler, 8), "Euler 100": own(EulerSampler, 100)},
        with_table=lambda theta: run(
            diffusionlab.sampler(theta, process), diffusionlab.schedule(theta, NUM_SAMPLES)
        ),
        merit=("energy distance", energy_distance(moons(np.random.default_rng(1), 2000))),
    )  # fmt: skip


def cells(rng: np.random.Generator, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Unpaired (control, perturbed) cells in ten dimensions: of four types, the first two of which respond."""
    means = np.random.default_rng(7).standard_normal((2, 4, 10))
    kinds = rng.integers(4, size=(2, number))
    start = 1.5 * means[0, kinds[0]] + 0.4 * rng.standard_normal((number, 10))
    moved = 1.5 * means[0, kinds[1]] + 0.4 * rng.standard_normal((number, 10))
    moved = np.where(kinds[1][:, None] < 2, 1.5 * means[1, kinds[1]] + 1.5 * np.tanh(moved - means[0, kinds[1]]), moved)
    return np.float32(start), np.float32(moved)


def cellflow_like() -> Client:
    """From control to perturbed cells, by OT-CFM in plain JAX; sampled by diffrax with the settings of CellFlow's `predict`."""
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    from bespoke_jax.adapters.diffrax import TableSolver

    rng, pairs = np.random.default_rng(0), []
    for _ in range(200):
        x0, x1 = cells(rng, 256)
        pairs.append(np.stack([x0, x1[linear_sum_assignment(cdist(x0, x1, "sqeuclidean"))[1]]]))
    data = jnp.asarray(np.stack(pairs))

    def loss(weights, key):
        keys = jax.random.split(key)
        x0, x1 = data[jax.random.randint(keys[0], (), 0, len(data))]
        t = jax.random.uniform(keys[1], (256, 1))
        return jnp.mean((dense(weights, jnp.concatenate([x0 + t * (x1 - x0), t], axis=1)) - (x1 - x0)) ** 2)

    weights = trained(loss, layers((11, 128, 128, 10)), 3000)

    def velocity(params, t, x):
        return dense(params["weights"], jnp.concatenate([x, column(t, x)], axis=1))

    def source(params, key):
        return jax.random.choice(key, params["cells"])

    test, perturbed = cells(np.random.default_rng(1), NUM_SAMPLES)
    params = {"weights": weights, "cells": jnp.asarray(cells(np.random.default_rng(2), 2000)[0])}
    flow = bj.Flow(velocity, params, (10,), bj.schedulers.CondOT(), source=source)

    def solution(solver, dt0, controller=diffrax.ConstantStepSize()):  # noqa: B008
        def one(x0):
            term = diffrax.ODETerm(lambda t, x, args: velocity(params, t, x[None])[0])
            return diffrax.diffeqsolve(term, solver, 0.0, 1.0, dt0, x0, stepsize_controller=controller)

        return jax.jit(lambda x0: jax.vmap(one)(x0))

    def sampled(solver, *settings):
        drawn = solution(solver, *settings)
        return lambda: drawn(test).ys[:, 0]

    adaptive = diffrax.Tsit5(), None, diffrax.PIDController(rtol=1e-5, atol=1e-5)
    calls = 6 * int(np.max(solution(*adaptive)(test).stats["num_steps"])) + 1  # all cells wait for the slowest
    return Client(
        model="control to perturbed cells, ten dimensions, by OT-CFM",
        flow=flow, test=flow, x0=jnp.asarray(test), default="Tsit5, 1e-5", with_table=lambda theta: sampled(TableSolver(theta), 1.0),
        own={"Euler 8": (8, sampled(diffrax.Euler(), 1 / 8)), "Heun 4": (8, sampled(diffrax.Heun(), 1 / 4)),
             "Tsit5, 1e-5": (calls, sampled(*adaptive))},
        merit=("energy distance", energy_distance(perturbed)),
    )  # fmt: skip


def chunks(key, number: int) -> tuple[jax.Array, jax.Array]:
    """(observations [number, 3], chunks of eight positions [number, 8, 2]): around an obstacle on the left or on the right.

    The way leads from (-1, 0) to (1, height of the goal); the obstacle is a disc at the observed centre.
    """
    keys = jax.random.split(key, 3)
    low, high = jnp.array([-0.4, -0.3, -0.5]), jnp.array([0.4, 0.3, 0.5])
    seen = jax.random.uniform(keys[0], (number, 3), minval=low, maxval=high)
    centre, goal = seen[:, None, :2], seen[:, None, 2:]
    along = jnp.linspace(-0.75, 1, 8)[None, :, None]
    side = jnp.where(jax.random.bernoulli(keys[1], 0.5, (number, 1, 1)), 1.0, -1.0)
    straight = goal * (along + 1) / 2
    over = jnp.exp(-(((along - centre[..., :1]) / 0.35) ** 2))
    across = straight + over * (centre[..., 1:] + 0.55 * side - straight)
    way = jnp.concatenate([jnp.broadcast_to(along, across.shape), across], axis=2)
    return seen, way + 0.02 * jax.random.normal(keys[2], way.shape)


def policy() -> Client:
    """A policy in the manner of pi0: chunks of actions, time 1 at the noise, ten Euler steps."""

    def expert(weights, seen, s, x):
        flat = jnp.concatenate([x.reshape(len(x), -1), seen, column(s, x)], axis=1)
        return dense(weights, flat).reshape(x.shape)

    def loss(weights, key):
        keys = jax.random.split(key, 3)
        seen, way = chunks(keys[0], 256)
        noise, s = jax.random.normal(keys[1], way.shape), jax.random.uniform(keys[2], (256, 1, 1))
        return jnp.mean((expert(weights, seen, s, way + s * (noise - way)) - (noise - way)) ** 2)

    weights = trained(loss, layers((20, 128, 128, 128, 16)), 3000)

    def velocity(params, t, x):
        seen = jnp.broadcast_to(params["condition"], (len(x), 3))
        return -expert(params["network"], seen, 1 - t, x)

    fitted, test = chunks(jax.random.key(2), 256)[0], chunks(jax.random.key(3), NUM_SAMPLES)[0]
    flow = bj.Flow(velocity, {"network": weights, "condition": fitted[0]}, (8, 2), bj.schedulers.CondOT())
    noise = jax.random.normal(jax.random.key(4), (NUM_SAMPLES, 8, 2))

    def act(evaluations):
        drawn = jax.jit(evaluations)
        return lambda: drawn(noise)

    def euler(steps):
        def evaluations(x):
            for i in range(steps):
                x = x - expert(weights, test, 1 - i / steps, x) / steps
            return x

        return steps, act(evaluations)

    def with_table(theta):
        table = bj.to_table(theta)

        def evaluations(noise):
            carry, x = table.begin(noise), noise
            for i, s in enumerate(table.times("noise_at_1")):
                carry, x = table.step(i, carry, -expert(weights, test, s, carry.x))
            return x

        return act(evaluations)

    def collisions(samples):
        apart = samples.reshape(-1, 8, 2) - np.asarray(test)[:, None, :2]
        return float(np.mean(np.any(np.sum(apart**2, axis=2) < 0.3**2, axis=1)))

    return Client(
        model="chunks of eight actions around an obstacle",
        flow=bj.given(flow, fitted), test=bj.given(flow, test[:NUM_EXACT]), x0=noise, with_table=with_table, default="Euler 10",
        own={"Euler 5": euler(5), "Euler 10": euler(10), "Euler 50": euler(50)}, calls=(4, 5, 8),
        merit=("collisions", collisions),
    )  # fmt: skip


CLIENTS = {
    "torch": (("torch", "torchcfm"), "torch torchcfm", torch_moons),
    "gensbi": (("gensbi",), "'bespoke_jax[integrations]' (Python 3.12)", gensbi),
    "hackable_diffusion": (("hackable_diffusion",), "'bespoke_jax[integrations]' (Python 3.12)", hackable),
    "diffusionlab": (("diffusionlab",), "'bespoke_jax[integrations]' (Python 3.13)", diffusionlab),
    "cells": ((), "", cellflow_like),
    "policy": ((), "", policy),
}
