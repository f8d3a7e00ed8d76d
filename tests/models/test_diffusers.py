"""diffusers' UNet2DModel and noise schedules against the outputs of diffusers."""

import functools
import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from jax import jit

import bespoke_jax as bj
from bespoke_jax.models import diffusers
from bespoke_jax.models.denoiser import Preconditioning, denoise
from bespoke_jax.models.labels import with_labels
from tests.models.common import FILES, configs, golden, nhwc, relative, state
from tests.models.torch_writer import write_zip

PUBLISHED = "diffusers/cifar10"


def write(folder, config, weights, scheduler=None, file="diffusion_pytorch_model.safetensors"):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if file.endswith(".bin"):
        write_zip(folder / file, weights)
    else:
        safetensors.numpy.save_file(weights, folder / file)
    if scheduler is not None:
        (folder / "scheduler_config.json").write_text(json.dumps(scheduler))
    return folder


@pytest.fixture
def published(tmp_path):
    return write(tmp_path / "ddpm", configs(PUBLISHED), state(PUBLISHED))


@pytest.mark.parametrize("name, label", [(PUBLISHED, None), ("diffusers/defaults", 3)])
def test_the_network_is_that_of_the_original(tmp_path, name, label):
    theirs = golden(name)
    model = diffusers.load_denoiser(write(tmp_path / "ddpm", configs(name), state(name)))
    variables = with_labels(model.variables, label, model.num_classes)
    ours = jit(model.network.apply)(variables, theirs["step"], nhwc(theirs["x"]))
    assert relative(ours, nhwc(theirs["output"])) < 3e-5  # measured: 3.4e-6


def test_the_older_file_format_holds_the_same(tmp_path, published):
    old = write(tmp_path / "old", configs(PUBLISHED), state(PUBLISHED), file="diffusion_pytorch_model.bin")
    one, two = (diffusers.load_denoiser(folder).variables for folder in (published, old))
    jax.tree.map(np.testing.assert_array_equal, one, two)


def test_attention_under_its_old_names(tmp_path):
    old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    weights = {}
    for key, value in state(PUBLISHED).items():
        for new, name in old.items():
            key = key.replace(new, name)
        weights[key] = value
    assert any(".proj_attn." in key for key in weights)
    one = diffusers.load_denoiser(write(tmp_path / "new", configs(PUBLISHED), state(PUBLISHED)))
    two = diffusers.load_denoiser(write(tmp_path / "old", configs(PUBLISHED), weights))
    jax.tree.map(np.testing.assert_array_equal, one.variables, two.variables)


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_steps_have_the_noise_levels_of_the_original(tmp_path, schedule):
    folder = write(tmp_path / "ddpm", configs(PUBLISHED), state(PUBLISHED), {"beta_schedule": schedule})
    preconditioning = diffusers.load_denoiser(folder).preconditioning
    alpha2 = golden(f"diffusers/{schedule}")["alphas_cumprod"].astype(np.float64)
    level = np.sqrt((1 - alpha2) / alpha2)
    step = preconditioning.coefficients(jnp.asarray(level, jnp.float32))[-1]
    within = slice(0, 990)  # theirs, in float32, has few digits left where alpha goes to 0
    np.testing.assert_allclose(step[within], np.arange(1000)[within], atol=0.02)


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_clean_images_are_those_of_their_sampler(tmp_path, prediction):
    theirs = golden(PUBLISHED)
    expected = nhwc(golden(f"diffusers/linear/{prediction}")["x1"])
    folder = write(tmp_path / "ddpm", configs(PUBLISHED), state(PUBLISHED), {"prediction_type": prediction})
    preconditioning = diffusers.load_denoiser(folder).preconditioning
    alpha2 = golden("diffusers/linear")["alphas_cumprod"].astype(np.float64)[theirs["step"].astype(int)]
    level = np.asarray(np.sqrt((1 - alpha2) / alpha2), np.float32)

    class Answers:
        def apply(self, variables, step, x):
            np.testing.assert_allclose(step, theirs["step"], atol=0.02)
            np.testing.assert_allclose(x, nhwc(theirs["x"]), rtol=1e-5, atol=1e-6)
            return nhwc(theirs["output"])

    y = np.asarray(nhwc(theirs["x"]) / np.sqrt(alpha2)[:, None, None, None], np.float32)
    ours = denoise(Answers(), preconditioning, {}, y, level)
    assert relative(ours[:, :2, :2, :1], expected) < 2e-4  # their levels are of float32, and so are ours


def test_time_is_the_step_of_the_same_noise_level(published):
    flow, model = diffusers.load(published), diffusers.load_denoiser(published)
    assert flow.scheduler == bj.schedulers.VariancePreserving()
    alpha2 = golden("diffusers/linear")["alphas_cumprod"].astype(np.float64)
    steps = np.array([10, 300, 900])
    times = jit(flow.scheduler.snr_inverse)(np.sqrt(alpha2[steps] / (1 - alpha2[steps])))
    np.testing.assert_allclose(
        times, 1 - (steps + 1) / 1000, atol=5e-3
    )  # continuous and discrete schedules nearly agree
    asked = model.preconditioning.coefficients(1 / flow.scheduler.snr(times))[-1]
    np.testing.assert_allclose(asked, steps, atol=0.02)


def test_a_conditional_network_wants_a_class(tmp_path):
    folder = write(tmp_path / "ddpm", configs("diffusers/defaults"), state("diffusers/defaults"))
    with pytest.raises(ValueError, match="one of 5 classes"):
        diffusers.load(folder)
    with pytest.raises(ValueError, match="from 0 to 4, got 5"):
        diffusers.load(folder, labels=5)
    assert diffusers.load(folder, labels=3).params["condition"]["label"][3] == 1


# --- Networks of other schedulers ---


@functools.cache
def theirs():
    with np.load(FILES / "diffusers.npz") as file:
        return dict(file)


def folder_of(tmp_path, name):
    return write(tmp_path / "it", configs(PUBLISHED), state(PUBLISHED), json.loads(str(theirs()["configs"]))[name])


def test_a_network_of_flow_matching_is_a_velocity_whose_time_is_reversed(tmp_path):
    """Their Euler step: x + (sigma_next - sigma) network(x, 1000 sigma)."""
    flow = diffusers.load(folder_of(tmp_path, "flow/euler"))
    assert flow.scheduler == bj.schedulers.CondOT() and flow.time_range == (0, 1)
    sigmas, states = theirs()["flow/euler/sigmas"], [nhwc(x) for x in theirs()["flow/euler/states"]]
    velocity = jit(lambda t, x: flow(t, x))
    for i in range(4):
        step = velocity(1 - sigmas[i], states[i]) * (sigmas[i] - sigmas[i + 1])
        assert relative(states[i] + step, states[i + 1]) < 1e-5


@pytest.mark.slow  # test_denoiser.py has every pair of schedulers
def test_the_same_network_under_another_scheduler(tmp_path):
    model = diffusers.load_denoiser(folder_of(tmp_path, "flow/unipc"))
    assert model.flow().scheduler == bj.schedulers.CondOT()
    denoise = jit(model.denoise)
    for sigma, x, clean in zip(*(theirs()[f"flow/unipc/{key}"] for key in ("sigmas", "states", "clean")), strict=False):
        if sigma < 0.999:  # beyond, a level is moved to the nearest that the network knows
            ours = denoise(nhwc(x) / (1 - sigma), sigma / (1 - sigma))
            assert relative(ours, nhwc(clean)) < 3e-5
    vp = model.flow("vp")
    x = nhwc(theirs()["flow/unipc/states"][0])
    # By hand: at t of VP, the share s of the noise on the straight path, and x1 there.
    t = 0.6
    alpha, sigma = float(vp.scheduler.alpha(t)), float(vp.scheduler.sigma(t))
    s = sigma / (alpha + sigma)
    y = x / (alpha + sigma)
    x1 = y - s * jit(model.network.apply)(model.variables, 1000 * s, y)
    x0 = (x - alpha * x1) / sigma
    slopes = [jax.jvp(f, (t,), (1.0,))[1] for f in (vp.scheduler.alpha, vp.scheduler.sigma)]
    np.testing.assert_allclose(jit(lambda t, x: vp(t, x))(t, x), slopes[0] * x1 + slopes[1] * x0, rtol=2e-4, atol=2e-4)


def test_a_network_of_flow_matching_in_a_file_of_ours(tmp_path):
    model = diffusers.load_denoiser(folder_of(tmp_path, "flow/euler"))
    bj.models.save_denoiser(tmp_path / "it.safetensors", model)
    flow, again = model.flow(), bj.models.load_flow(tmp_path / "it.safetensors")
    assert again.velocity == flow.velocity and again.scheduler == flow.scheduler
    jax.tree.map(np.testing.assert_array_equal, again.params, flow.params)


@pytest.mark.parametrize(
    "name",
    [pytest.param("edm/euler", marks=pytest.mark.slow), "edm/euler v", pytest.param("edm/dpm", marks=pytest.mark.slow)],
)
def test_networks_of_edm_s_schedulers(tmp_path, name):
    folder = folder_of(tmp_path, name)
    model = diffusers.load_denoiser(folder)
    denoise = jit(model.denoise)
    for sigma, x, clean in zip(*(theirs()[f"{name}/{key}"] for key in ("sigmas", "states", "clean")), strict=True):
        assert relative(denoise(nhwc(x), sigma), nhwc(clean)) < 2e-5
    ends = {"edm/euler": (0.002, 20.0), "edm/euler v": (0.002, 80.0), "edm/dpm": (0.01, 80.0)}[name]
    assert diffusers.load(folder).scheduler == bj.schedulers.EDM(*ends)


def test_data_predictions_under_their_old_name(tmp_path):
    old = {"_class_name": "DDPMScheduler", "predict_epsilon": False, "beta_start": 1e-4, "beta_end": 0.02}
    folder = write(tmp_path / "old", configs(PUBLISHED), state(PUBLISHED), old)
    preconditioning = diffusers.load_denoiser(folder).preconditioning
    assert preconditioning == Preconditioning.ddpm(np.linspace(1e-4, 0.02, 1000), "data")


def test_the_betas_of_a_class_that_are_not_told(tmp_path):
    for kind, start, end in [("EulerDiscreteScheduler", 1e-4, 0.02), ("HeunDiscreteScheduler", 0.00085, 0.012)]:
        folder = write(tmp_path / "it", configs(PUBLISHED), state(PUBLISHED), {"_class_name": kind})
        assert diffusers.load_denoiser(folder).preconditioning == Preconditioning.ddpm(np.linspace(start, end, 1000))


@pytest.mark.parametrize(
    "scheduler, message",
    [
        (
            {"_class_name": "CMStochasticIterativeScheduler"},
            "networks of CMStochasticIterativeScheduler are not supported",
        ),
        (
            {"_class_name": "ScoreSdeVeScheduler"},
            "ScoreSdeVeScheduler are not supported; supported are those of DDPMScheduler",
        ),
        ({"_class_name": "KarrasVeScheduler"}, "KarrasVeScheduler are not supported"),
        ({"_class_name": "LCMScheduler"}, "LCMScheduler are not supported"),
        ({"_class_name": ["DDPMScheduler"]}, "are not supported"),
        (
            {"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": True},
            "wanted 'flow_prediction' with use_flow_sigmas, got 'epsilon'",
        ),
        (
            {"_class_name": "UniPCMultistepScheduler", "prediction_type": "flow_prediction"},
            "prediction_type: wanted .*, got 'flow_pred",
        ),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "invert_sigmas": True}, "invert_sigmas: wanted False"),
        (
            {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 0},
            "num_train_timesteps: wanted an integer",
        ),
        (
            {"_class_name": "EDMEulerScheduler", "prediction_type": "sample"},
            "prediction_type: wanted 'epsilon' or 'v_prediction', got 'sample'",
        ),
        (
            {"_class_name": "EDMEulerScheduler", "sigma_data": "0.5"},
            "sigma_data: wanted a finite number > 0, got '0.5'",
        ),
        ({"_class_name": "EDMEulerScheduler", "sigma_min": 90}, "wanted sigma_min < sigma_max, got 90.0, 80.0"),
        (
            {"_class_name": "EulerDiscreteScheduler", "timestep_type": "continuous"},
            "timestep_type: wanted 'discrete', got 'continuous'",
        ),
        ({"beta_start": float("nan")}, "beta_start: wanted a number .*, got nan"),
        ({"beta_end": "0.02"}, "beta_end: wanted a number .*, got '0.02'"),
        ({"num_train_timesteps": 10**12}, "num_train_timesteps: wanted an integer from 2 to 1000000"),
        ({"trained_betas": "linear"}, "trained_betas: wanted a list"),
        ({"trained_betas": [0.1, "0.2"]}, "trained_betas: wanted a number"),
        ({"prediction_type": ["epsilon"]}, r"prediction_type"),
        ([1], "wanted a dictionary, got list"),
    ],
)
def test_schedulers_of_another_kind_are_named(tmp_path, scheduler, message):
    folder = write(tmp_path / "it", configs(PUBLISHED), {"conv_in.weight": np.zeros(3, np.float32)}, scheduler)
    with pytest.raises(ValueError, match=rf"scheduler_config\.json.*{message}"):
        diffusers.load(folder)


# --- Where things are ---


COSINE = {"_class_name": "DDPMScheduler", "beta_schedule": "squaredcos_cap_v2"}


def put(folder, scheduler):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scheduler_config.json").write_text(json.dumps(scheduler))


def test_folders_of_a_pipeline(tmp_path):
    put(tmp_path / "pipeline" / "scheduler", COSINE)
    write(tmp_path / "pipeline" / "unet", configs(PUBLISHED), state(PUBLISHED))
    for path in (".", "unet", "unet/diffusion_pytorch_model.safetensors"):
        assert diffusers.load(tmp_path / "pipeline" / path).scheduler == bj.schedulers.Cosine()


@pytest.mark.parametrize(
    "network, scheduler",
    [
        ("a/unet_ema", "a"),
        ("a/unet_ema", "a/scheduler"),
        ("a/checkpoint-500/unet_ema", "a/scheduler"),
        ("a", "a/scheduler"),
    ],
)
def test_the_scheduler_of_a_checkpoint_is_found(tmp_path, network, scheduler):
    put(tmp_path / scheduler, COSINE)
    (tmp_path / network).mkdir(parents=True, exist_ok=True)
    folder = write(tmp_path / network, {**configs(PUBLISHED), "decay": 0.9999}, state(PUBLISHED))
    assert diffusers.load(folder).scheduler == bj.schedulers.Cosine()


def test_averaged_weights_beside_others_are_not_passed_over(tmp_path):
    averaged = {key: 2 * value for key, value in state(PUBLISHED).items()}
    write(tmp_path / "unet_ema", configs(PUBLISHED), averaged)
    assert np.array_equal(
        *(diffusers.load_denoiser(tmp_path / p).variables["params"]["conv_in"]["bias"] for p in (".", "unet_ema"))
    )
    write(tmp_path / "unet", configs(PUBLISHED), state(PUBLISHED))
    with pytest.raises(ValueError, match=r"has unet and unet_ema .*give the path of one of them"):
        diffusers.load(tmp_path)
    one, two = (diffusers.load_denoiser(tmp_path / name).variables for name in ("unet", "unet_ema"))
    np.testing.assert_array_equal(2 * one["params"]["conv_in"]["kernel"], two["params"]["conv_in"]["kernel"])


def shard(folder, config, weights, suffix, variant=""):
    """As save_pretrained does with max_shard_size."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    places, names = {}, [f"diffusion_pytorch_model{variant}-0000{i}-of-00003.{suffix}" for i in (1, 2, 3)]
    for i, name in enumerate(names):
        part = {key: value for j, (key, value) in enumerate(weights.items()) if j % 3 == i}
        places |= dict.fromkeys(part, name)
        if suffix == "bin":
            write_zip(folder / name, part)
        else:
            safetensors.numpy.save_file(part, folder / name)
    index = folder / f"diffusion_pytorch_model.{suffix}.index{variant}.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    return index


@pytest.mark.parametrize("suffix, variant", [("safetensors", ""), ("bin", ""), ("safetensors", ".fp16")])
def test_weights_in_several_files(tmp_path, published, suffix, variant):
    index = shard(tmp_path / "shards", configs(PUBLISHED), state(PUBLISHED), suffix, variant)
    wanted = diffusers.load_denoiser(published).variables
    for path in (index.parent, index):
        jax.tree.map(np.testing.assert_array_equal, diffusers.load_denoiser(path).variables, wanted)
    part = index.parent / f"diffusion_pytorch_model{variant}-00002-of-00003.{suffix}"
    with pytest.raises(ValueError, match="one of several files of weights; give their folder"):
        diffusers.load(part)
    part.unlink()
    with pytest.raises(FileNotFoundError, match=r"-00002-of-00003.* is missing"):
        diffusers.load(index)


@pytest.mark.parametrize(
    "content, message",
    [
        ("[1]", "wanted a dictionary, got list"),
        ("{}", "wanted a dictionary weight_map"),
        ('{"weight_map": {"conv_in.weight": 3}}', "wanted a dictionary weight_map"),
        (
            '{"weight_map": {"conv_in.weight": "../config.safetensors"}}',
            r"files of weights beside it, got '\.\./config",
        ),
        ('{"weight_map": {"conv_in.weight": "config.json"}}', "files of weights beside it, got 'config.json'"),
        ("[" * 10**5, "no JSON"),
    ],
)
def test_an_index_of_another_kind(tmp_path, content, message):
    index = shard(tmp_path / "shards", configs(PUBLISHED), {"conv_in.weight": np.zeros(3, np.float32)}, "bin")
    index.write_text(content)
    with pytest.raises(ValueError, match=message):
        diffusers.load(index)


@pytest.mark.parametrize("variant, dtype", [("fp16", np.float16), ("bf16", ml_dtypes.bfloat16)])
def test_the_only_variant_is_taken(tmp_path, variant, dtype):
    rounded = {key: value.astype(dtype) for key, value in state(PUBLISHED).items()}
    folder = write(tmp_path / "it", configs(PUBLISHED), rounded, file=f"diffusion_pytorch_model.{variant}.safetensors")
    kernel = diffusers.load_denoiser(folder).variables["params"]["conv_in"]["kernel"]
    assert kernel.dtype == jnp.float32
    np.testing.assert_array_equal(kernel, rounded["conv_in.weight"].astype(np.float32).transpose(2, 3, 1, 0))
    other = write(folder, configs(PUBLISHED), state(PUBLISHED), file="diffusion_pytorch_model.non_ema.safetensors")
    with pytest.raises(
        ValueError, match=rf"has diffusion.*{variant}\.safetensors, diffusion.*non_ema\.safetensors; give"
    ):
        diffusers.load(other)
    full = write(folder, configs(PUBLISHED), state(PUBLISHED))  # beside which variants are not wanted
    kernel = diffusers.load_denoiser(full).variables["params"]["conv_in"]["kernel"]
    np.testing.assert_array_equal(kernel, state(PUBLISHED)["conv_in.weight"].transpose(2, 3, 1, 0))


def test_weights_without_averaging_are_taken_by_name_only(tmp_path):
    name = "diffusion_pytorch_model.non_ema.safetensors"
    folder = write(tmp_path / "it", configs(PUBLISHED), state(PUBLISHED), file=name)
    with pytest.raises(ValueError, match=r"has diffusion_pytorch_model\.non_ema\.safetensors; give the path"):
        diffusers.load(folder)
    assert diffusers.load(folder / name).event_shape == (8, 8, 3)


def test_a_pipeline_with_a_transformer_is_named(tmp_path):
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer" / "config.json").write_text('{"_class_name": "SD3Transformer2DModel"}')
    with pytest.raises(ValueError, match="a SD3Transformer2DModel; of diffusers' networks only UNet2DModel"):
        diffusers.load(tmp_path)


def test_a_folder_without_weights_says_what_it_has(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(
        FileNotFoundError, match=r"wanted diffusion_pytorch_model.*index.json.*, found pytorch_model\.bin"
    ):
        diffusers.load(tmp_path)


def test_weights_of_a_wrapped_network(tmp_path, published):
    weights = {f"module._orig_mod.{key}": value for key, value in state(PUBLISHED).items()}
    folder = write(tmp_path / "wrapped", configs(PUBLISHED), weights)
    one, two = (diffusers.load_denoiser(path).variables for path in (published, folder))
    jax.tree.map(np.testing.assert_array_equal, one, two)


# --- Configs ---


@pytest.mark.parametrize("size, given, shape", [(None, 8, (8, 8)), ([8, 16], None, (8, 16)), (32, (16, 8), (16, 8))])
def test_image_sizes(tmp_path, size, given, shape):
    folder = write(tmp_path / "it", {**configs(PUBLISHED), "sample_size": size}, state(PUBLISHED))
    assert diffusers.load(folder, image_size=given).event_shape == (*shape, 3)
    assert diffusers.load_denoiser(folder, image_size=given).event_shape == (*shape, 3)


def test_an_image_size_that_is_not_known(tmp_path):
    folder = write(tmp_path / "it", {**configs(PUBLISHED), "sample_size": None}, state(PUBLISHED))
    with pytest.raises(ValueError, match="sample_size: wanted a size, got None; give image_size="):
        diffusers.load(folder)
    for size, message in [
        (0, "image_size: wanted an integer"),
        ((8, 8, 3), r"wanted a side, or \(H, W\)"),
        ("8", "'8'"),
    ]:
        with pytest.raises(ValueError, match=message):
            diffusers.load(folder, image_size=size)


@pytest.mark.slow
def test_what_a_config_does_not_say_is_their_default(tmp_path):
    """The golden network of defaults, with none of its options told that are defaults."""
    told = ("sample_size", "block_out_channels", "layers_per_block", "norm_num_groups", "num_class_embeds")
    config = {key: configs("diffusers/defaults")[key] for key in (*told, "down_block_types", "up_block_types")}
    model = diffusers.load_denoiser(write(tmp_path / "it", config, state("diffusers/defaults")))
    wanted = golden("diffusers/defaults")
    ours = jit(model.network.apply)(with_labels(model.variables, 3, 5), wanted["step"], nhwc(wanted["x"]))
    assert relative(ours, nhwc(wanted["output"])) < 3e-5
    with pytest.raises(ValueError, match=r"layers_per_block|too few|missing"):  # theirs are of four levels
        diffusers.load(write(tmp_path / "it", {"sample_size": 8}, state("diffusers/defaults")))


@pytest.mark.parametrize(
    "option, value",
    [
        ("resnet_time_scale_shift", "scale_shift"),
        ("time_embedding_type", "fourier"),
        ("downsample_padding", 2),
        ("out_channels", 6),
        ("down_block_types", ["DownBlock2D", "SkipDownBlock2D", "DownBlock2D"]),
        ("up_block_types", ["AttnUpBlock2D", "UpBlock2D", "UpBlock2D"]),
        ("_class_name", "UNet2DConditionModel"),
        ("block_out_channels", "wide"),
        ("block_out_channels", [16, "32", 32]),
        ("block_out_channels", [16, -32, 32]),
        ("block_out_channels", [16, 32]),
        ("down_block_types", ["DownBlock2D"] * 1000),
        ("layers_per_block", "2"),
        ("layers_per_block", 10**6),
        ("attention_head_dim", 0),
        ("norm_num_groups", None),
        ("norm_eps", float("nan")),
        ("num_class_embeds", -1),
        ("flip_sin_to_cos", "false"),
    ],
)
def test_networks_of_another_kind_are_named(tmp_path, option, value):
    folder = write(
        tmp_path / "ddpm", {**configs(PUBLISHED), option: value}, {"conv_in.weight": np.zeros(3, np.float32)}
    )
    with pytest.raises(ValueError, match=r"config\.json.*(supported|wanted|not)"):
        diffusers.load(folder)


def test_bad_files_are_named(tmp_path, published):
    weights, config = state(PUBLISHED), configs(PUBLISHED)
    file = published / "diffusion_pytorch_model.safetensors"
    with pytest.raises(FileNotFoundError, match="nowhere"):
        diffusers.load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"missing conv_in\.weight, mid_block"):
        diffusers.load(
            write(published, config, {k: v for k, v in weights.items() if not k.startswith(("mid", "conv_in.w"))})
        )
    with pytest.raises(ValueError, match=r"extra\.weight: no place"):
        diffusers.load(write(published, config, {**weights, "extra.weight": np.zeros(3, np.float32)}))
    with pytest.raises(ValueError, match=r"conv_in\.weight of shape \(16, 3, 3, 3\)"):
        diffusers.load(write(published, {**config, "block_out_channels": [32, 32, 32]}, weights))
    with pytest.raises(ValueError, match="beta_schedule = 'sigmoid'"):
        diffusers.load(write(published, config, weights, {"beta_schedule": "sigmoid"}))
    with pytest.raises(ValueError, match="prediction_type"):
        diffusers.load(write(published, config, weights, {"prediction_type": "score"}))
    with pytest.raises(ValueError, match="zero_snr"):
        diffusers.load(write(published, config, weights, {"rescale_betas_zero_snr": True}))
    (published / "scheduler_config.json").unlink()
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(ValueError, match="truncated"):
        diffusers.load(published)
    (published / "config.json").write_text("{")
    with pytest.raises(ValueError, match="no JSON"):
        diffusers.load(published)
    (published / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        diffusers.load(published)
    file.unlink()
    with pytest.raises(FileNotFoundError, match="diffusion_pytorch_model"):
        diffusers.load(published)
