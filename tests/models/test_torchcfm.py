"""torchcfm's U-Net against the outputs of torchcfm."""

import jax.numpy as jnp
import numpy as np
import pytest

import bespoke_jax as bj
from bespoke_jax.models import torchcfm
from tests.models.common import golden, nhwc, relative, state
from tests.models.torch_writer import write_zip
from tests.quick import jit

CIFAR10 = dict(image_size=8, num_heads=4, head_channels=16)
GUIDED = dict(image_size=8, num_heads=2, head_channels=-1, new_attention_order=True, labels=4)


@pytest.mark.parametrize("name, options", [("torchcfm/cifar10", CIFAR10), ("torchcfm/guided", GUIDED)])
def test_velocities_are_those_of_the_original(tmp_path, name, options):
    theirs, weights = golden(name), state(name)
    noise = {key: value + 1 for key, value in weights.items()}
    write_zip(
        tmp_path / "weights.pt", {"net_model": noise, "ema_model": weights, "optim": {"state": {}}, "step": 400000}
    )
    flow = torchcfm.load(tmp_path / "weights.pt", **options)
    assert flow.event_shape == (8, 8, 3) and flow.scheduler == bj.schedulers.CondOT()
    velocity = jit(lambda t, x: flow(t, x))
    ours = jnp.concatenate([velocity(t, x[None]) for t, x in zip(theirs["t"], nhwc(theirs["x"]), strict=True)])
    assert relative(ours, nhwc(theirs["velocity"])) < 1e-5  # measured: 1.5e-6


def test_a_bare_state_dictionary_of_a_parallel_run(tmp_path):
    weights = {f"module.{key}": value for key, value in state("torchcfm/cifar10").items()}
    write_zip(tmp_path / "weights.pt", weights)
    assert torchcfm.load(tmp_path / "weights.pt", **CIFAR10, scheduler="cosine").scheduler == bj.schedulers.Cosine()


@pytest.fixture
def load(tmp_path):
    def write_and_load(content, **options):
        write_zip(tmp_path / "weights.pt", content)
        return torchcfm.load(tmp_path / "weights.pt", **{**CIFAR10, **options})

    return write_and_load


def test_bad_input_is_named(load):
    weights = state("torchcfm/cifar10")
    with pytest.raises(ValueError, match=r"no 'ema_model'.*'net_model'"):
        load({"net_model": weights})
    with pytest.raises(ValueError, match="head_channels=24"):
        load(weights, head_channels=24)
    with pytest.raises(ValueError, match=r"divisible by 2.*7, 7, 3"):
        load(weights, image_size=7)
    with pytest.raises(ValueError, match="unconditional"):
        load(weights, labels=1)
    with pytest.raises(ValueError, match=r"missing time_embed\.2\.bias"):
        load({key: value for key, value in weights.items() if key != "time_embed.2.bias"})
    with pytest.raises(ValueError, match="no place"):
        load({**weights, "input_blocks.1.0.extra.weight": np.zeros(3)})
    with pytest.raises(ValueError, match=r"middle_block\.0\.in_layers\.2\.weight of shape \(32, 64, 3, 3\)"):
        load({**weights, "middle_block.0.in_layers.2.weight": np.zeros((32, 64, 3, 3))})
    with pytest.raises(ValueError, match="no whole U-Net"):
        load({"conv.weight": np.zeros((3, 3, 3, 3))})
    with pytest.raises(ValueError, match="got list"):
        load([1, 2])


def test_a_conditional_network_wants_a_class(load):
    with pytest.raises(ValueError, match="one of 5 classes"):
        load(state("torchcfm/guided"), **{**GUIDED, "labels": None})
    with pytest.raises(ValueError, match="from 0 to 4, got 5"):
        load(state("torchcfm/guided"), **{**GUIDED, "labels": 5})
