"""Solvers as code in other languages: each file runs alone and ends where `solve` does."""

import dataclasses
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bespoke_jax as bj
from bespoke_jax.files.export_code import LANGUAGES, export_code
from bespoke_jax.flow.guided import of_call


def own(t, x):
    return 1.5 - x * (1 + t)


def none(t, x):
    return x * 0.25 - t


def velocity(params, t, x):
    chosen = params["condition"]
    return chosen * own(t, x) + (1 - chosen) * none(t, x)


FLOW = bj.Flow(velocity, {"condition": jnp.float32(1.0)}, (2,))
X0 = np.asarray(FLOW.noise(jax.random.key(1), (5,)))
GENERAL = dataclasses.replace(
    bj.classic.heun(4), first=jnp.float32(0.9), c=jnp.linspace(-0.5, 1, 5), xi=jnp.array([0.1, -2.0])
)
SOLVERS = {
    "learned": bj.init_theta("rk2", 3).with_raw(0.1 * jax.random.normal(jax.random.key(0), (23,))),
    "unipc": bj.classic.unipc(5, bj.schedulers.CondOT()),
    "general": GENERAL,
    "first": dataclasses.replace(GENERAL, c=None, xi=None),
    "blocks": bj.to_table(bj.in_blocks(bj.classic.euler(4), 2)),
}


def run(text):
    """The names that the file defines."""
    names = {"__name__": "exported"}
    assert "bespoke_jax" not in text.split('"""', 2)[2]
    exec(compile(text, "exported", "exec"), names)
    return names


def sampled(language, solver, velocity, x0=X0, **options):
    if language == "torch":
        pytest.importorskip("torch")
    names = run(export_code(solver, language))
    if language == "torch":
        import torch

        return names["sample"](velocity, torch.tensor(np.asarray(x0)), **options).numpy()
    return names["sample"](velocity, x0 if language == "numpy" else jnp.asarray(x0), **options)


@pytest.mark.parametrize("language", ["numpy", "torch", "jax"])
@pytest.mark.parametrize("name", SOLVERS)
def test_ends_where_solve_does(name, language):
    found = sampled(language, SOLVERS[name], own)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, bj.solve(FLOW, SOLVERS[name], X0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("language", ["numpy", "torch", "jax"])
def test_guidance_by_the_call(language):
    guided = bj.guided(FLOW, 1.5)
    solver = bj.by_call(bj.classic.heun(4), 1.5, without=[2])

    def by_field(t, x, field):
        return (1 - field) * own(t, x) + field * none(t, x)

    assert 0 < sum(solver.fields) < solver.nfe
    np.testing.assert_allclose(sampled(language, solver, by_field), bj.solve(guided, solver, X0), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(of_call(guided, 1)(0.3, X0), none(0.3, X0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("language", ["numpy", "torch", "jax"])
def test_images_of_classes(language):
    table = dataclasses.replace(GENERAL, xi=jnp.array([[1.0, -1.0], [0.5, 2.0], [3.0, 0.0]]))
    classes = np.array([0, 2, 1, 1, 0])
    flow = bj.given(bj.Flow(lambda p, t, x: own(t, x), {"condition": jnp.int32(0)}, (2,)), classes)
    found = sampled(language, table, own, image=np.asarray(table.xi)[classes])
    np.testing.assert_allclose(found, bj.solve(flow, table, X0), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="image: wanted that of each sample"):
        sampled(language, table, own)


def test_half_precision_is_summed_in_float32():
    x0 = jnp.asarray(X0, jnp.bfloat16)

    def half(t, x):
        return own(t, x).astype(x.dtype)

    found = run(export_code(SOLVERS["unipc"], "jax"))["sample"](half, x0)
    assert found.dtype == jnp.bfloat16
    wanted = bj.solve(bj.Flow(lambda params, t, x: half(t, x), None, (2,)), SOLVERS["unipc"], x0)
    np.testing.assert_array_equal(found, wanted)


def test_numbers_are_those_of_the_solver():
    for dtype in (jnp.float32, jnp.bfloat16):
        table = bj.classic.deis(6, bj.schedulers.Cosine(), dtype=dtype)
        names = run(export_code(table, "numpy"))
        np.testing.assert_array_equal(np.asarray(names["T"], dtype), table.t)
        np.testing.assert_array_equal(np.asarray(names["A"][1:], dtype), table.a)
        for row, wanted in zip(names["B"][1:], np.asarray(table.b), strict=True):
            np.testing.assert_array_equal(np.asarray(row, dtype), wanted[: len(row)])
    clipped = run(export_code(bj.classic.heun(4), "numpy", time_range=(0.25, 0.75)))["T"]
    assert (min(clipped), max(clipped)) == (0.25, 0.75)


def test_only_an_image_needs_imports_in_numpy():
    assert "import" not in export_code(bj.classic.euler(2), "numpy")


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (dict(solver=3), TypeError, "solver: wanted"),
        (dict(to="rust"), ValueError, "to: wanted one of"),
        (dict(prediction="score"), ValueError, "prediction: wanted one of"),
        (dict(prediction="noise"), ValueError, "scheduler: wanted that of the network"),
        (dict(prediction="noise", scheduler=bj.schedulers.Cosine()), ValueError, "betas: wanted that of the network"),
        (dict(prediction="noise", scheduler=bj.schedulers.Cosine(), betas=[2.0]), ValueError, "betas: wanted"),
        (dict(scheduler=bj.schedulers.Cosine()), ValueError, "scheduler: wanted CondOT"),
        (dict(scheduler="vp"), TypeError, "scheduler: wanted"),
        (dict(time_range=(1, 0)), ValueError, "time_range: wanted"),
        (dict(time_range=None), ValueError, "time_range: wanted"),
    ],
)
def test_what_is_wrong_is_named(arguments, error, words):
    with pytest.raises(error, match=words):
        export_code(**(dict(solver=bj.classic.euler(2), to="diffusers") | arguments))


@pytest.mark.parametrize("language", ["numpy", "jax", "torch"])
def test_integers_are_refused(language):
    with pytest.raises(TypeError, match=r"x0: wanted floating-point numbers, got .*int"):
        sampled(language, SOLVERS["unipc"], own, np.ones((5, 2), np.int32))


def test_an_image_keeps_its_precision():
    with jax.enable_x64(True):
        arrays = {
            name: np.asarray(value, np.float64) for name, value in vars(GENERAL).items() if hasattr(value, "dtype")
        }
        arrays |= dict(xi=np.array([1 / 3, -np.pi]), c=np.linspace(-0.5, 1, 5) / 7)
        table = dataclasses.replace(GENERAL, **{name: jnp.asarray(value) for name, value in arrays.items()})
        x0 = np.asarray(X0, np.float64)
        found = run(export_code(table, "numpy"))["sample"](own, x0)
        wanted = table.walk(own, jnp.asarray(x0))
        np.testing.assert_allclose(found, wanted, rtol=1e-14, atol=1e-14)


# --- diffusers ---


def scheduler_of(monkeypatch, solver, **options):
    pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    import types

    module = types.ModuleType("exported_scheduler")  # diffusers looks for a scheduler's module
    monkeypatch.setitem(sys.modules, "exported_scheduler", module)
    text = export_code(solver, "diffusers", **options)
    vars(module)["__name__"] = "exported_scheduler"
    exec(compile(text, "exported", "exec"), vars(module))
    return module.BespokeScheduler()


BETAS = np.linspace(1e-4, 0.02, 1000)
LEVELS = np.sqrt(1 / np.cumprod(1 - BETAS) - 1)


def output(prediction, x, t, scheduler):
    """What the network of the flow `own` predicts of the state x at time t."""
    u = own(t, x)
    if prediction == "velocity":
        return -u
    level = [np.float64(value) for value in scheduler.at(jnp.float32(t))]
    alpha, sigma, alpha_dot, sigma_dot = level
    determinant = alpha * sigma_dot - sigma * alpha_dot
    data, noise = (sigma_dot * x - sigma * u) / determinant, (alpha * u - alpha_dot * x) / determinant
    norm = np.hypot(alpha, sigma)
    return dict(noise=noise, data=data, v=(alpha * noise - sigma * data) / norm)[prediction]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("solver", ["unipc", "general", "first"])
@pytest.mark.parametrize(
    ("prediction", "scheduler"),
    [
        ("velocity", None),
        ("noise", bj.schedulers.VariancePreserving()),
        ("data", bj.schedulers.VariancePreserving()),
        ("v", bj.schedulers.VariancePreserving()),
        ("v", bj.schedulers.EDM(0.02, 80.0)),
        ("noise", bj.schedulers.EDM(0.02, 80.0)),
    ],
)
def test_diffusers_scheduler_ends_where_solve_does(monkeypatch, solver, prediction, scheduler):
    options = {} if scheduler is None else dict(scheduler=scheduler, betas=BETAS)
    late = dataclasses.replace(SOLVERS[solver], t=0.05 + 0.9 * SOLVERS[solver].t)
    found = scheduler_of(monkeypatch, late, prediction=prediction, **options)
    import torch

    found.set_timesteps(late.nfe, device="cpu")
    assert len(found.timesteps) == late.nfe and found.order == 1
    x = torch.tensor(X0)
    for t, step in zip(np.asarray(late.t, np.float64), found.timesteps, strict=True):
        given = found.scale_model_input(x, step).double().numpy()
        if scheduler is None:
            np.testing.assert_allclose(float(step), 1000 * (1 - t), rtol=1e-6)
            state = given
        else:
            alpha, sigma, *_ = (float(value) for value in scheduler.at(jnp.float32(t)))
            level = np.exp(np.interp(float(step), np.arange(1000), np.log(LEVELS)))
            np.testing.assert_allclose(level, np.clip(sigma / alpha, LEVELS[0], LEVELS[-1]), rtol=1e-3)
            state = given * np.hypot(alpha, sigma)
        x = found.step(torch.tensor(output(prediction, state, t, scheduler)).float(), step, x, return_dict=False)[0]
    np.testing.assert_allclose(x.numpy(), bj.solve(FLOW, late, X0), rtol=2e-4, atol=2e-4)


@pytest.mark.filterwarnings("ignore")
def test_a_pipeline_of_diffusers_samples_with_it(monkeypatch):
    pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    import torch

    scheduler, solver = (
        bj.schedulers.VariancePreserving(),
        bj.classic.dpm_solver_pp(4, bj.schedulers.VariancePreserving()),
    )
    torch.manual_seed(0)
    network = diffusers.UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    ).eval()
    exported = scheduler_of(monkeypatch, solver, prediction="v", scheduler=scheduler, betas=BETAS)
    pipeline = diffusers.DDIMPipeline(network, diffusers.DDIMScheduler())
    pipeline.scheduler = exported
    pipeline.set_progress_bar_config(disable=True)
    found = pipeline(3, torch.Generator().manual_seed(0), num_inference_steps=4, output_type="np").images[..., 0]

    @torch.no_grad()
    def velocity(t, x):
        alpha, sigma, alpha_dot, sigma_dot = (float(value) for value in scheduler.at(jnp.float32(t)))
        step = np.interp(np.log(sigma / alpha), np.log(LEVELS), np.arange(1000))
        v = network(torch.tensor(x), torch.tensor(step), return_dict=False)[0].numpy()
        return (alpha_dot * (alpha * x - sigma * v) + sigma_dot * (sigma * x + alpha * v)).astype(np.float32)

    x0 = torch.randn((3, 1, 8, 8), generator=torch.Generator().manual_seed(0)).numpy()
    wanted = sampled("numpy", solver, velocity, x0)[:, 0]
    assert np.mean((found > 0) & (found < 1)) > 0.5
    np.testing.assert_allclose(found, np.clip(wanted / 2 + 0.5, 0, 1), atol=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_diffusers_scheduler_refuses_what_it_cannot_do(monkeypatch):
    pytest.importorskip("torch")
    import torch

    x = torch.tensor(X0)
    found = scheduler_of(monkeypatch, bj.classic.euler(2))
    with pytest.raises(ValueError, match="num_inference_steps: wanted 2"):
        found.set_timesteps(50)
    with pytest.raises(ValueError, match="num_inference_steps: wanted 2"):
        found.set_timesteps(sigmas=[1.0, 0.5])
    with pytest.raises(NotImplementedError, match="begins at pure noise"):
        found.add_noise(x, x, found.timesteps)
    with pytest.raises(ValueError, match="begin_index"):
        found.set_begin_index(1)
    with pytest.raises(ValueError, match="timestep: wanted 1000"):
        found.step(x, 3.0, x)
    with pytest.raises(ValueError, match="eta"):
        found.step(x, 1000.0, x, eta=1.0)
    with pytest.raises(ValueError, match="field: wanted None"):
        found.step(x, 1000.0, x, field=1)
    for step in found.timesteps:
        x = found.step(x, step, x).prev_sample
    with pytest.raises(ValueError, match="at most 2 steps"):
        found.step(x, step, x)
    general = scheduler_of(monkeypatch, GENERAL)
    with pytest.raises(ValueError, match="scale_model_input"):
        general.step(x, general.timesteps[0], x)
    calls = scheduler_of(monkeypatch, bj.by_call(bj.classic.euler(2), 1.5))
    with pytest.raises(ValueError, match="field: wanted 0"):
        calls.step(x, calls.timesteps[0], x)
    calls.step(x, calls.timesteps[0], x, field=calls.fields[0])


def test_every_language_is_tested():
    assert set(LANGUAGES) == {"numpy", "torch", "jax", "diffusers"}


# --- The command ---


def test_the_command_writes_the_file(tmp_path):
    from click.testing import CliRunner

    from bespoke_jax.cli.commands import bespoke

    def export(*arguments):
        found = CliRunner().invoke(bespoke, ["export", str(tmp_path / "s.json"), *map(str, arguments)])
        assert found.exit_code == 0, found.output
        return found.stdout

    bj.save_solver(tmp_path / "s.json", SOLVERS["general"])
    assert export("--to", "numpy", "--out", tmp_path / "s.py") == ""
    text = (tmp_path / "s.py").read_text()
    np.testing.assert_allclose(run(text)["sample"](own, X0), bj.solve(FLOW, GENERAL, X0), rtol=1e-5, atol=1e-5)
    assert export("--to", "numpy") == text

    network = dict(_class_name="DDIMScheduler", beta_start=1e-4, beta_end=0.02, prediction_type="v_prediction")
    (tmp_path / "scheduler_config.json").write_text(json.dumps(network))
    found = export("--to", "diffusers", "--network", tmp_path / "scheduler_config.json")
    nearest = bj.schedulers.VariancePreserving(0.1, 20.0)
    assert found == export_code(
        GENERAL, "diffusers", scheduler=nearest, prediction="v", betas=np.linspace(1e-4, 0.02, 1000)
    )


@pytest.mark.parametrize("language", LANGUAGES)
def test_corrections_are_refused_and_one_scale_of_them_is_written(language):
    table = bj.corrected(bj.classic.euler(2), scales=(0.0, 2.0))
    table = dataclasses.replace(table, corrections=dataclasses.replace(table.corrections, a=table.corrections.a + 0.5))
    with pytest.raises(ValueError, match="solver: wanted one table for all samples, got one with corrections"):
        export_code(table, language)
    flow, x0 = bj.guided(FLOW, 1.5), np.ones((1, 2), np.float32)
    assert "corrections" not in export_code(table.of_samples(flow), language)
    if language == "numpy":
        sample = run(export_code(table.of_samples(flow), language))["sample"]
        np.testing.assert_allclose(
            sample(lambda t, x: np.asarray(flow(t, x)), x0), bj.solve(flow, table, x0), rtol=1e-6
        )
