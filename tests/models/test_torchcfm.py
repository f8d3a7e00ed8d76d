"""torchcfm's U-Net against the outputs of torchcfm."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import jit

import bespoke_jax as bj
from bespoke_jax.models import torchcfm
from tests.models.common import golden, nhwc, relative, state
from tests.models.torch_writer import write_zip

CIFAR10 = dict(image_size=8, num_heads=4, head_channels=16)
GUIDED = dict(image_size=8, num_heads=2, head_channels=-1, new_attention_order=True, labels=4)


@pytest.mark.parametrize(
    "name, options", [("torchcfm/cifar10", CIFAR10), pytest.param("torchcfm/guided", GUIDED, marks=pytest.mark.slow)]
)
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


def wrapped(prefix):
    return {prefix + key: value for key, value in state("torchcfm/cifar10").items()}


@pytest.mark.parametrize(
    "content",
    [
        wrapped("module."),
        wrapped("_orig_mod."),
        wrapped("module._orig_mod."),
        wrapped("_orig_mod.module."),
        {"epoch": 3, "state_dict": wrapped("net."), "callbacks": {}, "hyper_parameters": {"lr": 1e-4}},
        {"state_dict": wrapped("model.net.")},
        {"n_averaged": np.zeros(()), **wrapped("module.")},
        {"net_model": {"x": np.zeros(2)}, "ema_model": {"n_averaged": np.zeros(()), **wrapped("module._orig_mod.")}},
    ],
)
def test_what_wraps_a_network_is_taken_off(load, content):
    plain, ours = load(state("torchcfm/cifar10")), load(content)
    assert ours.velocity == plain.velocity
    jax.tree.map(np.testing.assert_array_equal, ours.params, plain.params)


def shapes_of_the_cifar10_script():
    """Of their network, by the names of their code: 128 channels, multiples 1, 2, 2, 2, two blocks a level."""
    shapes = {}

    def layer(name, *shape):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = shape, shape[:1]

    def block(name, before, after):
        layer(f"{name}.in_layers.0", before)
        layer(f"{name}.in_layers.2", after, before, 3, 3)
        layer(f"{name}.emb_layers.1", after, 512)
        layer(f"{name}.out_layers.0", after)
        layer(f"{name}.out_layers.3", after, after, 3, 3)
        if before != after:
            layer(f"{name}.skip_connection", after, before, 1, 1)

    def attention(name):
        layer(f"{name}.norm", 256)
        layer(f"{name}.qkv", 768, 256, 1)
        layer(f"{name}.proj_out", 256, 256, 1)

    layer("time_embed.0", 512, 128)
    layer("time_embed.2", 512, 512)
    layer("input_blocks.0.0", 128, 3, 3, 3)
    skips, width, number = [128], 128, 1
    for level, after in enumerate((128, 256, 256, 256)):
        for _ in range(2):
            block(f"input_blocks.{number}.0", width, after)
            if level == 1:
                attention(f"input_blocks.{number}.1")
            width = after
            skips.append(width)
            number += 1
        if level < 3:
            layer(f"input_blocks.{number}.0.op", width, width, 3, 3)
            skips.append(width)
            number += 1
    block("middle_block.0", 256, 256)
    attention("middle_block.1")
    block("middle_block.2", 256, 256)
    number = 0
    for level, after in reversed(list(enumerate((128, 256, 256, 256)))):
        for i in range(3):
            block(f"output_blocks.{number}.0", width + skips.pop(), after)
            if level == 1:
                attention(f"output_blocks.{number}.1")
            width = after
            if level and i == 2:
                layer(f"output_blocks.{number}.{2 if level == 1 else 1}.conv", width, width, 3, 3)
            number += 1
    layer("out.0", 128)
    layer("out.2", 3, 128, 3, 3)
    return shapes


def test_the_network_of_the_cifar10_script_is_known(load):
    """It has 35.7 M parameters; there are none here, for every number of the state is in one place of zeros."""
    shapes = shapes_of_the_cifar10_script()
    assert sum(np.prod(shape) for shape in shapes.values()) == 35_746_307
    state = {key: np.broadcast_to(np.float32(0), shape) for key, shape in shapes.items()}
    for options, wanted in [
        ({}, (32, 32, 64)),
        (dict(image_size=64), (64, 64, 64)),
        (dict(num_heads=1), (32, 1, -1)),
        (dict(head_channels=32), (32, 1, 32)),
    ]:
        given = dict(image_size=None, num_heads=None, head_channels=None) | options
        size, num_heads, head_channels = known = torchcfm._known(state, **given, source="it")
        assert (size, head_channels) == (wanted[0], wanted[2])
        heads = 256 // head_channels if head_channels != -1 else num_heads
        network, _ = torchcfm._network(state, known, "it")
        assert network == torchcfm._CIFAR10.clone(heads=(0, heads, 0, 0), middle_heads=heads)
    wider = {**state, "input_blocks.0.0.weight": np.broadcast_to(np.float32(0), (128, 4, 3, 3))}
    wider["out.2.weight"] = np.broadcast_to(np.float32(0), (4, 128, 3, 3))
    with pytest.raises(ValueError, match="how many heads"):
        torchcfm._known(wider, None, None, None, "it")


def test_what_a_file_does_not_say_has_to_be_given(load):
    weights = state("torchcfm/cifar10")
    with pytest.raises(ValueError, match=r"does not say how many heads its attention has; give num_heads= or"):
        load(weights, num_heads=None, head_channels=None)
    with pytest.raises(ValueError, match=r"how many heads"):
        load(weights, num_heads=None, head_channels=-1)
    with pytest.raises(ValueError, match=r"does not say how large its images are; give image_size="):
        load(weights, image_size=None)
    by_heads, by_width = load(weights, head_channels=None), load(weights, num_heads=None)
    assert by_heads.velocity.network.middle_heads == 4 and by_width.velocity.network.middle_heads == 4
    one = load(weights, num_heads=1, head_channels=None)  # what their UNetModelWrapper has
    assert one.velocity.network.middle_heads == 1


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(image_size=8.0), "image_size: wanted an integer >= 1, got 8.0"),
        (dict(image_size=0), "image_size: wanted an integer >= 1"),
        (dict(num_heads="4"), "num_heads: wanted an integer >= 1, got '4'"),
        (dict(head_channels=-2), "head_channels: wanted an integer >= 1, got -2"),
        (dict(new_attention_order=1), "new_attention_order: wanted True or False"),
        (dict(scheduler="ot"), "scheduler: wanted one of"),
        (dict(weights="ema"), r"wanted|no 'ema' in it; weights= may be one of 'ema_model'"),
    ],
)
def test_arguments_are_checked(load, options, message):
    with pytest.raises(ValueError, match=message):
        load({"ema_model": {"x": np.zeros(2)}}, **options)


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
    with pytest.raises(ValueError, match=r"found conv\.weight, linear\.bias; it is no whole U-Net"):
        load({"conv.weight": np.zeros((3, 3, 3, 3)), "linear.bias": np.zeros(3)})
    with pytest.raises(ValueError, match="no whole U-Net"):  # two networks
        load({"state_dict": {**wrapped("net."), **wrapped("ema.")}})
    with pytest.raises(ValueError, match="no whole U-Net"):  # blocks by the billion
        load({**weights, "input_blocks.999999999.0.x": np.zeros(3), "output_blocks.9999.1.conv.weight": np.zeros(3)})
    with pytest.raises(ValueError, match="wanted a matrix or a kernel, got shape"):
        load({**weights, "time_embed.0.weight": np.zeros((0, 10**9))})
    with pytest.raises(ValueError, match="got list"):
        load([1, 2])


def test_a_conditional_network_wants_a_class(load):
    with pytest.raises(ValueError, match="one of 5 classes"):
        load(state("torchcfm/guided"), **{**GUIDED, "labels": None})
    with pytest.raises(ValueError, match="from 0 to 4, got 5"):
        load(state("torchcfm/guided"), **{**GUIDED, "labels": 5})
