"""The networks by themselves: their sizes, their options, and files of them."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.flax
import safetensors.numpy
from jax import jit

import bespoke_jax as bj
from bespoke_jax.models import ADM, SongUNet
from bespoke_jax.models.networks import blocks
from tests.models.common import state

NCSNPP = dict(fourier=True, residual_input=True, taps=(1, 3, 3, 1))
SMALL = dict(channels=(16, 32), num_blocks=1, num_classes=3)
ADM_CIFAR10 = dict(channels=(128, 256, 256, 256), num_blocks=2, time_channels=128, scale_shift=False, group_width=1)

# name -> (network, side of its images, parameters as the authors' code counts them, but for the layer of augmentation labels)
PUBLISHED = {
    "EDM's DDPM++, CIFAR10": (SongUNet(), 32, 55_733_891 - 9 * 128),
    "EDM's NCSN++, CIFAR10": (SongUNet(noise_channels=256, **NCSNPP), 32, 56_397_827 - 9 * 256),
    "EDM's ADM, ImageNet-64": (ADM(num_classes=1000), 64, 295_899_267),
    "torchcfm, CIFAR10": (ADM(heads=(0, 4, 0, 0), middle_heads=4, resampling="conv", **ADM_CIFAR10), 32, 35_746_307),
    "DDPM, CIFAR10 (Ho et al. 2020, App. B: 35.7 million)": (
        ADM(heads=(0, 1, 0, 0), middle_heads=1, resampling="conv_end", frequency_shift=1, **ADM_CIFAR10),
        32,
        35_746_307,
    ),
}


def shapes_of(network, side):
    return jax.eval_shape(network.init, jax.random.key(0), 0.5, jnp.zeros((1, side, side, 3)))


def random_variables(network, side=8):
    """No zeros, so that every layer matters; and no `init`, which takes longer to compile than all that is done here."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: jnp.asarray(0.1 * rng.standard_normal(s.shape), s.dtype), shapes_of(network, side))


LARGE = "EDM's ADM, ImageNet-64"


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n == LARGE else ()) for n in PUBLISHED])
def test_published_networks_have_as_many_parameters(name):
    network, side, published = PUBLISHED[name]
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes_of(network, side)["params"]))
    assert count == published


NETWORKS = {
    "ADM": ADM(heads=(0, 2), middle_heads=2, time_channels=16, **SMALL),
    "ADM with convolutions": ADM(
        heads=(1, 0), middle_heads=0, time_channels=16, resampling="conv_end", groups=8, **SMALL
    ),
    "DDPM++": SongUNet(stem_channels=16, noise_channels=16, **SMALL),
    "NCSN++": SongUNet(stem_channels=16, noise_channels=16, **NCSNPP, **SMALL),
}


@pytest.mark.parametrize("name", ["ADM", pytest.param("NCSN++", marks=pytest.mark.slow)])
def test_remat_is_of_every_block(name):
    def count(network):
        traced = jax.make_jaxpr(network.apply)(shapes_of(network, 8), 0.3, jnp.zeros((1, 8, 8, 3)))
        return sum(equation.primitive.name in ("checkpoint", "remat", "remat2") for equation in traced.eqns)

    plain = NETWORKS[name]
    variables = shapes_of(plain, 8)["params"]
    assert count(plain) == 0
    assert count(plain.clone(remat=True)) == sum(("block" in part or "resample" in part) for part in variables)


@pytest.mark.slow
@pytest.mark.parametrize("remat", [False, True])
def test_dropout_is_for_training_only(remat):
    plain = NETWORKS["ADM"]
    network, variables = plain.clone(dropout=0.5, remat=remat), random_variables(plain)
    x = jax.random.normal(jax.random.key(1), (1, 8, 8, 3))

    @jit
    def trained(key):
        return network.apply(variables, 0.3, x, rngs={"dropout": key})

    one, again, other = (trained(jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert not np.allclose(one, other)
    np.testing.assert_array_equal(
        jit(network.apply)(variables, 0.3, x), jit(plain.clone(remat=remat).apply)(variables, 0.3, x)
    )


@pytest.mark.parametrize("taps", [(1, 1), (1, 3, 3, 1)])
def test_up_is_four_times_the_transpose_of_down(taps):
    x = jax.random.normal(jax.random.key(0), (1, 4, 4, 2))
    (transposed,) = jax.linear_transpose(lambda big: blocks.resample(big, "down", taps), jnp.zeros((1, 8, 8, 2)))(x)
    np.testing.assert_allclose(blocks.resample(x, "up", taps), 4 * transposed, atol=1e-6)


def test_bad_options_are_named():
    x = jnp.zeros((1, 8, 8, 3))
    for network, message in [
        (
            NETWORKS["ADM"].clone(resampling="pool"),
            r"resampling: wanted one of \['block', 'conv', 'conv_end'\], got 'pool'",
        ),
        (NETWORKS["ADM"].clone(heads=(2,)), "heads: wanted a number for each of 2 levels"),
        (NETWORKS["ADM"].clone(groups=5, group_width=1), "x: wanted channels that divide into 5 groups, got 16"),
        (NETWORKS["ADM"].clone(middle_heads=3), "x: wanted channels that divide into 3 heads, got 32"),
    ]:
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(network.init, jax.random.key(0), 0.5, x)
    for network in (NETWORKS["ADM"], NETWORKS["DDPM++"]):
        with pytest.raises(ValueError, match=r"divisible by 2.*\(1, 7, 8, 3\)"):
            jax.eval_shape(network.init, jax.random.key(0), 0.5, x[:, :7])


# --- Files ---


@pytest.mark.parametrize("name", ["ADM", pytest.param("NCSN++", marks=pytest.mark.slow)])
def test_a_flow_file_gives_the_same_velocity(tmp_path, name):
    network = NETWORKS[name]
    variables = random_variables(network)
    bj.models.save_flow(tmp_path / "f.safetensors", network, variables, (8, 8, 3), "condot", dtype=jnp.float32)
    flow = bj.models.load_flow(tmp_path / "f.safetensors")
    assert flow.velocity.network == network and flow.scheduler == bj.schedulers.CondOT()
    jax.tree.map(np.testing.assert_array_equal, flow.params, variables)


def test_a_denoisers_flow_comes_back_whole(tmp_path):
    """Preconditioning, the constants of the scheduler, the class; and with rounded weights, unrounded frequencies."""
    model = bj.models.Denoiser(
        NETWORKS["NCSN++"],
        random_variables(NETWORKS["NCSN++"]),
        (8, 8, 3),
        bj.models.Preconditioning("ve", 0.02, 100.0),
    )
    bj.models.save_denoiser(tmp_path / "f.safetensors", model, labels=2)
    flow, same = bj.models.load_flow(tmp_path / "f.safetensors"), model.flow(labels=2)
    assert jax.tree.structure(flow) == jax.tree.structure(same)
    jax.tree.map(np.testing.assert_array_equal, flow.params, same.params)

    bj.models.save_denoiser(tmp_path / "f.safetensors", model, labels=2, dtype=jnp.bfloat16)
    rounded = bj.models.load_flow(tmp_path / "f.safetensors").params
    for kept in ("constants", "condition"):
        jax.tree.map(np.testing.assert_array_equal, rounded[kept], same.params[kept])
    kernel, original = (p["params"]["conv_in"]["kernel"] for p in (rounded, same.params))
    np.testing.assert_array_equal(kernel, original.astype(jnp.bfloat16).astype(jnp.float32))


def test_an_imported_network_goes_out_and_comes_back(tmp_path):
    model = bj.models.edm.from_state(state("edm/adm-edm"))
    bj.models.save_denoiser(tmp_path / "f.safetensors", model, "cosine", labels=1)
    flow, same = bj.models.load_flow(tmp_path / "f.safetensors", dtype=jnp.bfloat16), model.flow("cosine", labels=1)
    jax.tree.map(np.testing.assert_array_equal, flow.params, same.params)
    network = flow.velocity.network.network  # within the prediction that the velocity is made from
    assert network == model.network.clone(dtype=jnp.bfloat16) and flow.scheduler == same.scheduler


@pytest.mark.parametrize("taps", [(1, 2, 1), (0, 0), (1, -1), ()])
def test_filters_that_are_none_are_named(taps):
    with pytest.raises(ValueError, match=r"taps: wanted an even number of them, with a positive sum, got \("):
        blocks.resample(jnp.zeros((1, 4, 4, 1)), "down", taps)


def test_flow_files_of_another_shape_are_named(tmp_path):
    path, network = tmp_path / "f.safetensors", NETWORKS["ADM"]
    with pytest.raises(ValueError, match=r"one of .*'ADM', 'SongUNet', 'UNet'.*, got Dense"):
        bj.models.save_flow(path, __import__("flax").linen.Dense(3), {}, (3,), "condot")
    with pytest.raises(ValueError, match="scheduler"):
        bj.models.save_flow(path, network, {}, (8, 8, 3), "karras")
    bj.models.save_flow(path, network, random_variables(network), (8, 8, 3), "condot")
    with safetensors.safe_open(path, "numpy") as file:
        header = json.loads(file.metadata()["flow"])
    weights = safetensors.flax.load_file(path)

    def rewrite(weights, **changes):
        metadata = {"flow": json.dumps({**header, **changes})}
        safetensors.flax.save_file(weights, path, metadata)

    rewrite(weights, fields={**header["fields"], "channels": [16, 64]})
    with pytest.raises(ValueError, match=r"variables are not those of the ADM.*wanted \("):
        bj.models.load_flow(path)
    rewrite({name: value for name, value in weights.items() if name != "params/conv_in/bias"})
    with pytest.raises(ValueError, match=r"params/conv_in/bias is missing, wanted \(16,\)"):
        bj.models.load_flow(path)
    rewrite({**weights, "params/extra": jnp.zeros(3)})
    with pytest.raises(ValueError, match=r"params/extra is \(3,\), wanted none"):
        bj.models.load_flow(path)
    rewrite(weights, network="Transformer")
    with pytest.raises(ValueError, match=r"'ADM', 'SongUNet', 'UNet'.*'Transformer'"):
        bj.models.load_flow(path)
    rewrite(weights, fields={**header["fields"], "colour": 3})
    with pytest.raises(ValueError, match="colour"):
        bj.models.load_flow(path)


@pytest.mark.parametrize(
    "load",
    [
        bj.models.edm.load,
        bj.models.torchcfm.load,
        bj.models.diffusers.load,
        bj.models.diffusers.load_denoiser,
        bj.models.load_flow,
    ],
)
def test_what_a_network_cannot_compute_in_is_named_before_any_file_is_read(load):
    for dtype in (int, "half a float"):
        with pytest.raises(TypeError, match="dtype: wanted a floating dtype"):
            load("nowhere", dtype=dtype)
    if load is not bj.models.load_flow:
        with pytest.raises(ValueError, match="remat: wanted True or False, got 1"):
            load("nowhere", remat=1)
