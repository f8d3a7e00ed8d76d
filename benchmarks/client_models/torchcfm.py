"""A PyTorch model that stays one."""

import jax
import numpy as np

import bespoke_jax as bj
from benchmarks.client_models.client import NUM_SAMPLES, Client
from benchmarks.client_models.training import energy_distance, moons


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
