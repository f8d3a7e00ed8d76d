"""PyTorch's networks as flows, beside the same weights in Flax: `python -m benchmarks.torch_models [--rounds N]`.

Needs torch, torchcfm and diffusers. The networks are small U-Nets with random weights. The first table has a frugal fit of
rk2-bespoke, n = 2, through `adapters.torch.flow` and through the importer, with the same key: the largest difference of the
learned numbers, and what each cost in velocity evaluations. The second has times over those of PyTorch alone, calling the model
and its autograd as often on the same batch: a velocity; a linearisation and two pullbacks; a whole update, as
`benchmarks.updates` has it. They are timed in turns, and the least times of many rounds are compared; "by chance" is the ratio
of half of PyTorch's times to the other half.
"""

import argparse
import pathlib
import tempfile
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import bespoke_jax as bj
from bespoke_jax.adapters import torch as adapter
from bespoke_jax.flow import kernels
from bespoke_jax.run import adjoint

SIDE, NUM_STEPS, BATCH_SIZE, BUDGET = 8, 4, 16, 4_000


def seconds(function) -> float:
    start = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - start


def drawn(module):
    """The module with random weights of a size that keeps activations near one: new ones have zeros in their last layers."""
    import torch

    generator = torch.Generator().manual_seed(0)
    for weight in module.parameters():
        size = weight[0].numel() if weight.ndim > 1 else 25
        own = weight.detach() if weight.ndim == 1 else 0
        weight.data = own + torch.randn(weight.shape, generator=generator) / size**0.5
    list(module.parameters())[-2].data *= 0.5  # the last layer
    return module.eval()


def last(x):
    """[N, C, H, W] from [N, H, W, C]."""
    return x.permute(0, 3, 1, 2)


def first(x):
    """[N, H, W, C] from [N, C, H, W]."""
    return x.permute(0, 2, 3, 1)


def of_torchcfm() -> tuple[Callable, bj.Flow]:
    """(the velocity of PyTorch with channels last, the flow of our importer) of torchcfm's U-Net."""
    import torch
    from torchcfm.models.unet.unet import UNetModelWrapper

    options = dict(num_channels=32, channel_mult=[1, 2], num_res_blocks=1, attention_resolutions="4", num_heads=2)
    network = drawn(UNetModelWrapper(dim=(3, SIDE, SIDE), **options))
    with tempfile.TemporaryDirectory() as folder:
        torch.save(network.state_dict(), f"{folder}/weights.pt")
        flow = bj.models.torchcfm.load(f"{folder}/weights.pt", image_size=SIDE, num_heads=2)
    return lambda t, x: first(network(t, last(x))), flow


def of_diffusers() -> tuple[Callable, bj.Flow]:
    """(the velocity of PyTorch with channels last, the flow of our importer) of diffusers' U-Net, trained by flow matching."""
    import diffusers

    network = drawn(
        diffusers.UNet2DModel(
            sample_size=SIDE,
            block_out_channels=(16, 32),
            layers_per_block=1,
            norm_num_groups=8,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        )
    )
    smooth(network)
    with tempfile.TemporaryDirectory() as folder:
        pipeline = pathlib.Path(folder)
        network.save_pretrained(pipeline / "unet")
        diffusers.FlowMatchEulerDiscreteScheduler().save_pretrained(pipeline / "scheduler")
        flow = bj.models.diffusers.load(pipeline)
    return lambda t, x: first(-network(last(x), 1000 * (1 - t)).sample), flow


def smooth(network) -> None:
    """Take the fast waves of its times out of the U-Net of diffusers: random weights do not ignore them as trained ones do."""
    weight = network.time_embedding.linear_1.weight
    wave = np.arange(weight.shape[1]) % (weight.shape[1] // 2)
    weight.data[:, wave < 5] = 0


NETWORKS = {"torchcfm": of_torchcfm, "diffusers": of_diffusers}


def row_of_fits(name: str, flow: bj.Flow, ported: bj.Flow) -> str:
    """A row of the first table."""
    x = flow.noise(jax.random.key(0), (4,))
    apart = float(jnp.max(jnp.abs(flow(0.3, x) - ported(0.3, x))) / jnp.max(jnp.abs(ported(0.3, x))))
    theta, key = bj.init_theta("rk2", NUM_STEPS), jax.random.key(1)
    one, other = (bj.fit(each, theta, key, bj.frugal(BUDGET)) for each in (flow, ported))
    raw = float(jnp.max(jnp.abs(one.theta.raw - other.theta.raw)))
    psnr = [f"{found.best['psnr']:.2f}" for found in (one, other)]
    updates = other.best["iteration"]  # 0 would compare the start with itself
    return f"| {name} | {apart:.1e} | {updates} | {raw:.1e} | {one.cost:,} | {other.cost:,} | {' | '.join(psnr)} |"


def rows_of_times(name: str, velocity: Callable, flow: bj.Flow, rounds: int) -> list[str]:
    """The rows of the second table."""
    import torch

    x0, t = flow.noise(jax.random.key(0), (BATCH_SIZE,)), np.float32(0.5)
    theta = bj.init_theta("rk2", NUM_STEPS)
    paths = bj.Paths.of_ends(flow, x0, bj.solve(flow, bj.classic.midpoint(16), x0))
    stage = bj.Stage(batch_size=BATCH_SIZE, chunk_size=BATCH_SIZE)
    state = stage.optimizer.init(theta.raw)
    point = torch.full((BATCH_SIZE,), float(t)), torch.tensor(np.asarray(x0))
    tracked = [value.clone().requires_grad_() for value in point]

    def theirs():
        with torch.no_grad():
            velocity(*point)

    def their_pullbacks():
        out = velocity(*tracked)
        for _ in range(1 + stage.probes):
            torch.autograd.grad(out, tracked, point[1], retain_graph=True)

    def their_update():
        for _ in range(theta.nfe):
            theirs()
            their_pullbacks()
            theirs()

    def pullbacks():
        _, pullback = adjoint._linearised(flow, t, x0)
        for _ in range(1 + stage.probes):
            found = adjoint._pulled(flow, pullback, x0)
        return found

    def update():
        return stage.update(flow, theta, state, paths, jax.random.key(1), 0, 1)[0].raw

    pairs = {
        "velocity": (lambda: kernels.velocity(flow, t, x0), theirs),
        "linearisation, 2 pullbacks": (pullbacks, their_pullbacks),
        "update": (update, their_update),
    }
    rows = []
    for label, functions in pairs.items():
        for function in functions:
            seconds(function)
        ours, alone = 1e3 * np.array([[seconds(function) for function in functions] for _ in range(rounds)]).T
        by_chance = min(alone[::2]) / min(alone[1::2])
        times = f"{min(ours):.1f} ms | {min(alone):.1f} ms | {min(ours) / min(alone):.2f} | {by_chance:.2f}"
        rows.append(f"| {name} | {label} | {times} |")
    return rows


def main():
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    rounds = parser.parse_args().rounds
    print(
        "| network | velocity, apart | updates | theta, apart | cost, PyTorch | cost, Flax | PSNR, PyTorch | PSNR, Flax |"
    )
    print("|---|---|---|---|---|---|---|---|")
    made = {}
    for name, of in NETWORKS.items():
        velocity, ported = of()
        # Without their scheduler, whose slope at the noise random weights do not have.
        ported = bj.Flow(ported.velocity, ported.params, ported.event_shape)
        flow = adapter.flow(velocity, ported.event_shape)
        made[name] = velocity, flow
        print(row_of_fits(name, flow, ported), flush=True)
    print(f"\n| network, batch {BATCH_SIZE} | what | through the flow | PyTorch alone | ratio | by chance |")
    print("|---|---|---|---|---|---|")
    for name, (velocity, flow) in made.items():
        print("\n".join(rows_of_times(name, velocity, flow, rounds)), flush=True)


if __name__ == "__main__":
    main()
