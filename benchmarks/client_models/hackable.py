"""A flow by hackable_diffusion."""

import jax
import jax.numpy as jnp
import numpy as np

import bespoke_jax as bj
from benchmarks.client_models.client import NUM_SAMPLES, Client
from benchmarks.client_models.training import KEY, energy_distance, moons, trained


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
    process = gaussian.GaussianProcess(schedule=schedules.RFSchedule())
    data = jnp.asarray(moons(np.random.default_rng(0), 20_000))
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
