"""Perturbed cells by CellFlow's own model, training and prediction."""

import contextlib
import functools
import io

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

import bespoke_jax as bj
from benchmarks.client_models.client import NUM_SAMPLES, Client
from benchmarks.client_models.training import energy_distance

DRUGS, GENES, FITTED = 6, 10, 128  # drugs of the training set; the size of a cell; conditions to fit to


def _embedding(drug: int) -> np.ndarray:
    """What CellFlow knows of a drug: a dose in 1, 1/2, ... of one of three kinds."""
    return np.float32((drug // 3 + 1) / 2 * np.eye(3)[drug % 3])


def _cells(rng: np.random.Generator, number: int, drug: int | None = None) -> np.ndarray:
    """Control cells of four types, or those treated with a drug: the types that it works on move, and spread, by its dose."""
    means = np.random.default_rng(7).standard_normal((4, GENES))
    moves = 1.5 * np.random.default_rng(8).standard_normal((3, GENES))
    kinds = rng.integers(4, size=number)
    found = 1.5 * means[kinds] + 0.4 * rng.standard_normal((number, GENES))
    if drug is not None:
        dose, kind = (drug // 3 + 1) / 2, drug % 3
        responds = ((kinds + kind) % 4 < 2)[:, None]
        found = np.where(
            responds, found + dose * (moves[kind] + 0.5 * np.tanh(2 * (found - 1.5 * means[kinds]))), found
        )
    return np.float32(found)


def _table(groups: dict, embeddings: dict):
    """Cells as CellFlow wants them: an AnnData with the drug of each, and what is known of the drugs."""
    import anndata
    import pandas as pd

    drugs = np.repeat(list(groups), [len(cells) for cells in groups.values()])
    obs = pd.DataFrame({"drug": pd.Categorical(drugs), "control": drugs == "control"})
    obs.index = obs.index.astype(str)
    return anndata.AnnData(X=np.concatenate(list(groups.values())), obs=obs, uns={"drugs": embeddings})


def cellflow() -> Client:
    """Control cells to treated ones under six drugs by `CellFlow`, with its default sampler, Tsit5 at 1e-5."""
    import optax
    from cellflow.model import CellFlow

    from bespoke_jax.adapters.diffrax import TableSolver

    rng, names = np.random.default_rng(0), [f"drug{number}" for number in range(DRUGS)]
    embeddings = {name: _embedding(i) for i, name in enumerate(names)} | {"control": np.zeros(3, np.float32)}
    groups = {"control": _cells(rng, 4000)} | {name: _cells(rng, 2000, i) for i, name in enumerate(names)}
    model = CellFlow(_table(groups, embeddings))
    with contextlib.redirect_stdout(io.StringIO()):
        model.prepare_data(
            sample_rep="X", control_key="control", perturbation_covariates={"drug": ("drug",)},
            perturbation_covariate_reps={"drug": "drugs"},
        )  # fmt: skip
    model.prepare_model(
        condition_embedding_dim=16, pooling="mean", cond_output_dropout=0.0, time_freqs=8, time_max_period=None,
        time_encoder_dims=(64,), hidden_dims=(64,), decoder_dims=(128, 128), optimizer=optax.adam(1e-3),
    )  # fmt: skip
    with contextlib.redirect_stderr(io.StringIO()):
        model.train(num_iterations=2000, batch_size=256, valid_freq=10**6)

    chosen, number = names[-1], DRUGS - 1
    control, treated = _cells(np.random.default_rng(1), NUM_SAMPLES), _cells(np.random.default_rng(2), 2000, number)
    test = _table({"control": control}, embeddings)
    wanted = model.adata.obs[model.adata.obs["drug"] == chosen].iloc[:1]

    def predicted(**options):
        return functools.partial(_only, model, test, wanted, options)

    def velocity(params, t, x):
        call, nothing = model.solver.vf_state_inference.apply_fn, jnp.zeros((1, 16))
        seen = {"drug": params["condition"][None, None]}
        one = functools.partial(call, {"params": params["network"]}, train=False)
        return jax.vmap(lambda x: one(t, x, seen, nothing)[0])(x)

    def source(params, key):
        return jax.random.choice(key, params["cells"])

    params = {"network": model.solver.vf_state_inference.params, "cells": jnp.asarray(groups["control"])}
    one = bj.Flow(velocity, params | {"condition": jnp.asarray(_embedding(number))}, (GENES,), source=source)
    seen = jnp.stack([jnp.asarray(_embedding(i % DRUGS)) for i in range(FITTED)])
    constant, x0 = diffrax.ConstantStepSize(), jnp.asarray(control)
    calls = 6 * int(np.max(_tsit5_steps(one, x0))) + 1  # all cells wait for the slowest
    return Client(
        model="control to treated cells under six drugs, ten dimensions, by CellFlow",
        flow=bj.given(one, seen), test=one, x0=x0, default="Tsit5, 1e-5",
        own={"Euler 8": (8, predicted(solver=diffrax.Euler(), dt0=1 / 8, stepsize_controller=constant)),
             "Heun 4": (8, predicted(solver=diffrax.Heun(), dt0=1 / 4, stepsize_controller=constant)),
             "Tsit5, 1e-5": (calls, predicted())},
        with_table=lambda theta: predicted(solver=TableSolver(theta), dt0=1.0, stepsize_controller=constant),
        merit=("energy distance", energy_distance(treated)),
    )  # fmt: skip


@jax.jit
def _tsit5_steps(flow, x0) -> jax.Array:
    """The steps of CellFlow's default, for each sample."""
    term, controller = diffrax.ODETerm(lambda t, x, args: flow(t, x)), diffrax.PIDController(rtol=1e-5, atol=1e-5)

    def steps(x0):
        return diffrax.diffeqsolve(term, diffrax.Tsit5(), 0.0, 1.0, None, x0, stepsize_controller=controller).stats

    return jax.vmap(steps)(x0)["num_steps"]


def _only(model, cells, wanted, options) -> np.ndarray:
    """CellFlow's prediction for its one condition, without its progress bars."""
    with contextlib.redirect_stdout(io.StringIO()):
        (found,) = model.predict(cells, wanted, **options).values()
    return np.asarray(found)
