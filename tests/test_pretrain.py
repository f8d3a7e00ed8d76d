"""Pre-training: that the three kinds of model learn what they should, on many devices the same, and that the launcher resumes."""

import dataclasses
import functools
import importlib
import itertools
import os
import pathlib
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import jit
from ml_collections import ConfigDict

import bespoke_jax as bj
from bespoke_jax.flow.prediction import PREDICTIONS
from experiments import data, pretrain
from experiments.pretraining import flow, settings
from experiments.pretraining.flow_matching import TARGETS, Objective, TrainState, init_state, make_update
from experiments.report import plots
from experiments.run import stopping

CONFIGS = sorted(path.stem for path in pathlib.Path(pretrain.__file__).with_name("configs").glob("[!_]*_pretrain.py"))
KINDS = {"FM-OT": ("condot", "velocity"), "FM/v-CS": ("cosine", "velocity"), "eps-VP": ("vp", "noise")}
NETWORK = dict(channels=(8,), num_blocks=(1,), head_channels=4, num_heads=0, num_classes=2)


def dark_and_bright(count=64, size=4):
    """Class 0 is dark, class 1 is bright."""
    labels = np.arange(count, dtype=np.int32) % 2
    noise = np.random.default_rng(0).integers(0, 60, (count, size, size, 1))
    images = (noise + 190 * labels[:, None, None, None]).astype(np.uint8)
    return data.DataSet.in_memory(images, labels, num_classes=2, source="dark_and_bright")


def objective(kind="FM-OT", label_dropout=0.1):
    scheduler, prediction = KINDS[kind]
    return Objective(bj.models.UNet(**NETWORK), bj.schedulers.by_name(scheduler), prediction, label_dropout)


ADAM = optax.adam(1e-2)


@functools.cache
def update_of(objective, num_devices):
    """An update of its own for each number of devices: it is to be compiled once."""
    return make_update(objective, ADAM, ema_decay=0.9)


def learned(objective, num_steps, num_devices=1):
    """(state, losses) after some steps of Adam."""
    dataset = dark_and_bright()
    state = init_state(objective, ADAM, dataset.image_shape, jax.random.key(0))
    state = bj.sharding.replicate(state, jax.devices()[:num_devices])
    update, losses = update_of(objective, num_devices), []
    for step in range(num_steps):
        batch = bj.sharding.spread(state, data.batch(dataset, 0, step, batch_size=16))
        state, loss = update(state, jax.random.fold_in(jax.random.key(1), step), *batch)
        losses.append(float(loss))
    assert update._cache_size() == 1  # compiled once
    return state, losses


def random_variables(network):
    """No zeros, so that every layer matters; and no `init`, which is slow to compile."""
    shapes = jax.eval_shape(network.init, jax.random.key(0), 0.5, jnp.zeros((1, 4, 4, 1)))
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda s: jnp.asarray(0.3 * rng.standard_normal(s.shape), s.dtype), shapes)


@pytest.mark.parametrize("prediction", TARGETS)
@pytest.mark.parametrize("scheduler", ["condot", "cosine", "vp"])
def test_what_is_learned_is_what_a_flow_reads(prediction, scheduler):
    """A network that says the target of one (x0, x1) has, as a flow, the velocity of the path from x0 to x1."""
    scheduler, t = bj.schedulers.by_name(scheduler), 0.4
    x0, x1 = jax.random.normal(jax.random.key(0), (2, 5))
    (alpha, sigma) = (jax.jvp(f, (t,), (1.0,)) for f in (scheduler.alpha, scheduler.sigma))
    target = TARGETS[prediction](x0, x1, alpha, sigma)
    flow = bj.Flow.from_prediction(lambda p, t, x: jnp.broadcast_to(p, x.shape), target, (5,), scheduler, prediction)
    wanted = alpha[1] * x1 + sigma[1] * x0
    np.testing.assert_allclose(flow(t, alpha[0] * x1 + sigma[0] * x0), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["FM-OT", "FM/v-CS", "eps-VP"])
@pytest.mark.slow
def test_each_kind_of_model_learns_its_classes(kind, tmp_path):
    learning = objective(kind)
    state, losses = learned(learning, 60)
    assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:3])
    path, (scheduler, prediction) = tmp_path / "flow.safetensors", KINDS[kind]
    variables = {"params": state.ema, "condition": {"label": jnp.zeros(2)}}
    bj.models.save_flow(path, learning.network, variables, (4, 4, 1), scheduler, jnp.float32, prediction=prediction)
    means = [
        float(
            bj.sample(
                bj.models.load_flow(path, labels=label), bj.classic.midpoint(20), jax.random.key(2), num_samples=16
            ).mean()
        )
        for label in (0, 1)
    ]
    # In [-1, 1], class 0 has the mean -0.77, class 1 the mean 0.72.
    assert means[0] < -0.4 and means[1] > 0.4


@pytest.mark.slow
def test_many_devices_give_the_same_numbers():
    (one, losses), (many, losses_of_many) = (learned(objective(), 3, count) for count in (1, 8))
    np.testing.assert_allclose(losses_of_many, losses, rtol=1e-4)
    for a, b in zip(jax.tree.leaves(many.params), jax.tree.leaves(one.params), strict=True):
        assert len(a.sharding.device_set) == 8 and a.sharding.is_fully_replicated
        np.testing.assert_allclose(a, b, atol=2e-4)


def test_a_class_that_is_withheld_is_not_seen():
    params = random_variables(bj.models.UNet(**NETWORK))["params"]
    x1 = jax.random.normal(jax.random.key(1), (8, 4, 4, 1))

    @jit
    def gradient(label_dropout):
        loss = objective(label_dropout=label_dropout).loss
        return jax.grad(loss)(params, jax.random.key(2), x1, jnp.arange(8) % 2)["classes"]["kernel"]

    assert not np.any(gradient(1.0)) and np.all(gradient(0.0))


def test_a_file_keeps_prediction_and_class(tmp_path):
    network, path = bj.models.UNet(**NETWORK), tmp_path / "flow.safetensors"
    variables = random_variables(network)
    bj.models.save_flow(path, network, variables, (4, 4, 1), "vp", jnp.float32, prediction="noise")
    x = jax.random.normal(jax.random.key(2), (3, 4, 4, 1))

    vp, t = bj.schedulers.VariancePreserving(), jnp.float32(0.3)
    (alpha, alpha_dot), (sigma, sigma_dot) = (jax.jvp(f, (t,), (jnp.ones(()),)) for f in (vp.alpha, vp.sigma))
    for label, weights in ((None, variables["condition"]["label"]), (1, jnp.array([0.0, 1.0]))):
        noise = jit(network.apply)(variables | {"condition": {"label": weights}}, t, x)
        wanted = alpha_dot * (x - sigma * noise) / alpha + sigma_dot * noise
        np.testing.assert_allclose(jit(bj.models.load_flow(path, labels=label))(t, x), wanted, rtol=1e-4, atol=1e-4)

    one, two = (bj.models.load_flow(path, labels=label) for label in (0, 1))
    assert jax.tree.structure(one) == jax.tree.structure(two)  # classes share what is compiled
    with pytest.raises(ValueError, match="classes from 0 to 1, got 2"):
        bj.models.load_flow(path, labels=2)
    each = jit(bj.models.load_flow(path, labels=[0, 1]))(t, x[:2])
    alone = jit(lambda flow, x: flow(t, x))  # compiled once for both
    np.testing.assert_allclose(each, [alone(one, x[0]), alone(two, x[1])], rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match=r"prediction: wanted one of .*'velocity'.* got 'epsilon'"):
        bj.models.save_flow(path, network, variables, (4, 4, 1), "vp", prediction="epsilon")
    assert set(TARGETS) < set(PREDICTIONS)


def get_config(name):
    return importlib.import_module(f"experiments.configs.{name}").get_config()


def five_steps():
    """Five steps on a small data set of two classes."""
    config = get_config("fashion_vp_class_pretrain")
    config.network = NETWORK
    config.update(num_steps=5, batch_size=8, warmup=1, checkpoint_every=2)
    return config


@pytest.fixture(scope="module")
def compiled():
    """(plan, update, parameters to begin with) of these five steps, compiled once for all runs."""
    plan = settings.read(five_steps(), dark_and_bright())
    update = make_update(plan.objective, plan.optimizer, plan.ema_decay)
    return plan, update, random_variables(plan.objective.network)["params"]


@pytest.fixture
def config(compiled, monkeypatch):
    monkeypatch.setattr(data, "load", lambda section: dark_and_bright())
    monkeypatch.setattr(plots, "image_grid", lambda rows: plots.Figure())  # slow, and not of these tests
    monkeypatch.setattr(bj.sharding, "replicate", lambda state, *_: state)  # as are eight devices
    plan, update, params = compiled
    monkeypatch.setattr(flow, "make_update", lambda *_: update)
    monkeypatch.setattr(
        flow,
        "init_state",
        lambda *_: TrainState(
            jnp.zeros((), jnp.int32), *jax.tree.map(jnp.copy, (params, params)), plan.optimizer.init(params)
        ),
    )
    return five_steps()


def checkpoints(folder):
    return {path.name for path in (folder / "checkpoints" / "pretrain").iterdir()}


class TestLauncher:
    @pytest.mark.slow  # test_train.py has runs that were interrupted, by the same checkpoints
    def test_what_was_interrupted_ends_as_what_was_not(self, config, tmp_path, monkeypatch):
        pretrain.main(config, tmp_path / "whole")
        batches = data.batches

        def stops(*arguments):
            yield from itertools.islice(batches(*arguments), 3)
            raise KeyboardInterrupt

        monkeypatch.setattr(data, "batches", stops)
        with pytest.raises(KeyboardInterrupt):
            pretrain.main(config, tmp_path / "halves")
        monkeypatch.setattr(data, "batches", batches)
        pretrain.main(config, tmp_path / "halves")
        whole, halves = (bj.models.load_flow(tmp_path / name / "flow.safetensors") for name in ("whole", "halves"))
        for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(halves), strict=True):
            np.testing.assert_array_equal(a, b)
        assert whole.scheduler == bj.schedulers.VariancePreserving()
        assert (tmp_path / "whole" / "figures" / "samples.png").exists()
        with pytest.raises(SystemExit, match=r"config\.learning_rate: 0\.001 there, 0\.002 here"):
            config.learning_rate = 2e-3
            pretrain.main(config, tmp_path / "whole")

    def test_a_loss_that_is_not_finite_ends_the_run(self, config, tmp_path, monkeypatch):
        def update(state, key, images, labels):
            return state._replace(step=state.step + 1), jnp.where(state.step < 3, 1.0, jnp.nan)

        monkeypatch.setattr(flow, "make_update", lambda *_: update)
        with pytest.raises(SystemExit, match=r"step 4: the loss is nan; lower config\.learning_rate"):
            pretrain.main(config, tmp_path)
        assert checkpoints(tmp_path) == {"2"}

    def test_a_request_to_stop_is_answered_with_a_checkpoint(self, config, tmp_path, monkeypatch):
        config.update(num_steps=30, checkpoint_every=1000)
        batches = data.batches

        def asks(*arguments):
            for number, batch in enumerate(batches(*arguments), start=1):
                if number == 12:
                    signal.raise_signal(signal.SIGTERM)
                yield batch

        monkeypatch.setattr(data, "batches", asks)
        with stopping.listening(), pytest.raises(SystemExit) as caught:
            pretrain.main(config, tmp_path)
        assert caught.value.code == stopping.RESUME and checkpoints(tmp_path) == {"20"}

    def test_an_image_that_cannot_be_read_loses_no_step(self, config, tmp_path, monkeypatch):
        whole, count = dark_and_bright(), itertools.count()

        def read(indices):
            if next(count) == 3:
                raise ValueError("cat.jpg: cannot be read")
            return whole.read(indices)

        monkeypatch.setattr(data, "load", lambda section: dataclasses.replace(whole, read=read))
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})  # one thread, which reads in order
        with pytest.raises(SystemExit, match=r"^cat\.jpg: cannot be read$"):
            pretrain.main(config, tmp_path)
        assert checkpoints(tmp_path) == {"2", "3"}


class TestConfigs:
    def test_classes_of_data_that_have_none(self, config):
        dark = dark_and_bright()
        with pytest.raises(ValueError, match=r"num_classes: wanted 0, since the data have no classes, got 2"):
            settings.read(config, dataclasses.replace(dark, num_classes=0))

    @pytest.mark.parametrize("name", CONFIGS)
    def test_every_config_is_valid(self, name):
        config = get_config(name)
        shape = dict(fashion_mnist=(28, 28, 1), cifar10=(32, 32, 3), folder=(64, 64, 3))[config.data.name]
        dataset = data.DataSet.in_memory(np.zeros((128, *shape), np.uint8), np.zeros(128), 10, source="zeros")
        plan = settings.read(config, dataset)
        assert plan.objective.network.num_classes == (10 if "class" in name else 0)
        assert config.workdir == f"runs/{name}"

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            (dict(scheduler="edm"), r"config\.scheduler: wanted one of \['condot', 'cosine', 'vp'\], got 'edm'"),
            (
                dict(prediction="velocity"),
                "wanted one of .* under 'vp', got 'velocity', which is infinite there at t = 1",
            ),
            (dict(prediction="score"), r"config\.prediction: wanted one of .* got 'score'"),
            (dict(compute_dtype="float16"), r"config\.compute_dtype: wanted .* got 'float16'"),
            (dict(label_dropout=1.5), r"config\.label_dropout: wanted a number from 0 to 1, got 1.5"),
            (dict(batch_size=65), r"config\.batch_size: wanted an integer from 1 to 64, got 65"),
            (
                dict(network=NETWORK | dict(num_classes=3)),
                r"num_classes: wanted 0 or 2, the number of classes of the data, got 3",
            ),
            (dict(network=NETWORK | dict(depth=3)), r"config\.network: .*'depth'"),
            (dict(network=NETWORK | dict(patch_size=3)), r"config\.network: x: wanted .* divisible by 3"),
            (dict(network=dict(name="DiT")), r"config\.network\.name: wanted .* got 'DiT'"),
            (dict(network=NETWORK | dict(channels=())), r"config\.network: no network can be made of it, IndexError"),
            (dict(network=None), r"config\.network: wanted a ConfigDict .* got None"),
            (dict(seed=2**32), r"config\.seed: wanted an integer from 0 to 4294967295, got 4294967296"),
            (dict(data=dict(flip="no")), r"config\.data\.flip: wanted True or False, got 'no'"),
            (dict(epochs=3), r"config\.epochs: no such field"),
        ],
    )
    def test_a_mistake_is_named(self, config, changes, message):
        config = ConfigDict(config.to_dict() | changes)
        with pytest.raises(ValueError, match=message):
            settings.read(config, dark_and_bright())
