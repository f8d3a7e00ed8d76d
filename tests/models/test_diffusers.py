"""diffusers' UNet2DModel and noise schedules against the outputs of diffusers."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import bespoke_jax as bj
from bespoke_jax.models import diffusers
from bespoke_jax.models.denoiser import denoise
from bespoke_jax.models.labels import with_labels
from tests.models.common import configs, golden, nhwc, relative, state
from tests.models.torch_writer import write_zip
from tests.quick import jit

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


def test_folders_of_a_pipeline(tmp_path):
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / "scheduler").mkdir()
    write(tmp_path / "pipeline" / "unet", configs(PUBLISHED), state(PUBLISHED))
    scheduler = {"beta_schedule": "squaredcos_cap_v2"}
    (tmp_path / "pipeline" / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    for path in (".", "unet", "unet/diffusion_pytorch_model.safetensors"):
        assert diffusers.load(tmp_path / "pipeline" / path).scheduler == bj.schedulers.Cosine()


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
