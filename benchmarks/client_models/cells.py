"""Populations of cells in the manner of CellFlow."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

import bespoke_jax as bj
from benchmarks.client_models.client import NUM_SAMPLES, Client
from benchmarks.client_models.training import column, dense, energy_distance, layers, trained


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
        flow=flow, test=flow, x0=jnp.asarray(test), default="Tsit5, 1e-5",
        with_table=lambda theta: sampled(TableSolver(theta), 1.0),
        own={"Euler 8": (8, sampled(diffrax.Euler(), 1 / 8)), "Heun 4": (8, sampled(diffrax.Heun(), 1 / 4)),
             "Tsit5, 1e-5": (calls, sampled(*adaptive))},
        merit=("energy distance", energy_distance(perturbed)),
    )  # fmt: skip
