"""From a config to a flow: every config is valid, every kind of file is loaded, and what is missing is said in two lines."""

import importlib
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

import bespoke_jax as bj
from experiments import train
from experiments.learning import flows, measure, settings
from experiments.report import page
from tests.golden.weights import draw_all
from tests.models import common
from tests.models.torch_writer import write_zip

CONFIGS = sorted(
    path.stem
    for path in pathlib.Path(train.__file__).with_name("configs").glob("[!_]*.py")
    if not path.stem.endswith(("_pretrain", "_classifier"))  # of other launchers
)
PAPER = [name for name in CONFIGS if name not in ("tiny", "own_flow") and not name.startswith("fashion")]
OPTIONS = dict(image_size=8, head_channels=4)  # smaller than torchcfm's


def get_config(name):
    return importlib.import_module(f"experiments.configs.{name}").get_config()


def section(name, path, **options):
    return ConfigDict(dict(name=name, path=str(path), missing="", remedy="", **options))


def tiny_torchcfm_shapes(width=8):
    """Tensors of a U-Net of torchcfm with one level of one block, which compiles in seconds."""
    emb = 4 * width

    def layer(name, *shape):
        return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}

    def block(name, channels):
        return {
            **layer(f"{name}.in_layers.0", channels),
            **layer(f"{name}.in_layers.2", width, channels, 3, 3),
            **layer(f"{name}.emb_layers.1", width, emb),
            **layer(f"{name}.out_layers.0", width),
            **layer(f"{name}.out_layers.3", width, width, 3, 3),
            **(layer(f"{name}.skip_connection", width, channels, 1, 1) if channels != width else {}),
        }

    return {
        **layer("time_embed.0", emb, width),
        **layer("time_embed.2", emb, emb),
        **layer("input_blocks.0.0", width, 3, 3, 3),
        **block("input_blocks.1.0", width),
        **block("middle_block.0", width),
        **layer("middle_block.1.norm", width),
        **layer("middle_block.1.qkv", 3 * width, width, 1),
        **layer("middle_block.1.proj_out", width, width, 1),
        **block("middle_block.2", width),
        **block("output_blocks.0.0", 2 * width),
        **block("output_blocks.1.0", 2 * width),
        **layer("out.0", width),
        **layer("out.2", 3, width, 3, 3),
    }


@pytest.fixture(scope="module")
def torchcfm_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "otcfm.pt"
    write_zip(path, {"ema_model": draw_all(tiny_torchcfm_shapes())})
    return path


@pytest.fixture(scope="module")
def diffusers_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    (folder / "config.json").write_text(json.dumps(common.configs("diffusers/cifar10")))
    write_zip(folder / "diffusion_pytorch_model.bin", common.state("diffusers/cifar10"))
    return folder


class TestConfigs:
    @pytest.mark.parametrize("name", CONFIGS)
    def test_every_config_is_valid(self, name):
        config = get_config(name)
        plans = settings.read_fits(config).values() if "fits" in config else [settings.read(config)]
        assert all(plan.jobs for plan in plans) and config.workdir == f"runs/{name}"

    def test_the_paper_has_nine_experiments(self):
        assert len(PAPER) == 9

    @pytest.mark.parametrize("name", PAPER)
    def test_the_paper_s_solvers(self, name):
        jobs = {(job.base, job.num_steps) for job in settings.read(get_config(name)).jobs}
        assert jobs == {(base, n) for base in ("rk1", "rk2") for n in (4, 5, 8, 10, 12)}

    @pytest.mark.parametrize("name", PAPER)
    def test_two_lines_say_what_is_missing(self, name, tmp_path):
        config = get_config(name)
        with pytest.raises(SystemExit) as caught:
            train.main(config, tmp_path)
        lines = str(caught.value.code).splitlines()
        assert len(lines) == 2
        assert "config.flow.path is empty; missing: " in lines[0]
        assert "--config.flow.path=" in lines[1]

    def test_a_path_without_a_file(self):
        config = get_config("cifar10_vp")
        config.flow.path = "nowhere.pkl"
        with pytest.raises(FileNotFoundError, match=r"path is 'nowhere\.pkl', where there is no file; missing: EDM's"):
            flows.load(config.flow)


class TestFiles:
    def test_torchcfm(self, torchcfm_file):
        ours = flows.load(section("torchcfm", torchcfm_file, scheduler="cosine", **OPTIONS))
        assert ours.scheduler == bj.schedulers.Cosine() and ours.event_shape == (8, 8, 3)

    @pytest.mark.slow
    def test_edm(self):
        path = common.FILES / "edm.pkl"
        for scheduler in ("edm", "vp", "cosine", "condot"):
            ours = flows.load(section("edm", path, scheduler=scheduler))
            assert ours.scheduler == bj.schedulers.by_name(scheduler) and ours.event_shape == (8, 8, 3)
        with pytest.raises(ValueError, match="unconditional"):
            flows.load(section("edm", path, labels=1))

    def test_diffusers(self, diffusers_folder):
        ours = flows.load(section("diffusers", diffusers_folder))
        assert ours.scheduler == bj.schedulers.VariancePreserving() and ours.event_shape == (8, 8, 3)

    def test_guidance(self, tmp_path):
        network = bj.models.UNet(channels=(4,), num_blocks=(1,), head_channels=4, num_heads=0, num_classes=3)
        shapes = jax.eval_shape(network.init, jax.random.key(0), 0.5, jnp.zeros((1, 4, 4, 1)))
        path = tmp_path / "flow.safetensors"
        bj.models.save_flow(path, network, jax.tree.map(lambda s: np.ones(s.shape), shapes), (4, 4, 1), "condot")
        ours = flows.load(section("checkpoint", path, labels=1, guidance_scale=1.5))
        assert ours.calls_per_evaluation == 2 and float(ours.params["guidance_scale"]) == 1.5
        assert ours.params["condition"]["label"].tolist() == [0, 1, 0]
        for labels, wanted in (("all", [0, 1, 2]), ("2,0", [2, 0]), ((1, 1), [1, 1])):
            many = flows.load(section("checkpoint", path, labels=labels, guidance_scale=1.5))
            assert many.params["condition"]["label"].argmax(-1).tolist() == wanted
        assert flows.load(section("checkpoint", path, labels="2")).params["condition"]["label"].argmax() == 2
        for labels in ("some", "0,x", 3):
            with pytest.raises(ValueError, match="labels: wanted"):
                flows.load(section("checkpoint", path, labels=labels))
        assert flows.load(section("checkpoint", path, labels=1, guidance_scale=0.0)).calls_per_evaluation == 1
        with pytest.raises(ValueError, match="entry 'condition'"):
            flows.load(ConfigDict(dict(name="fashion_fmot", guidance_scale=1.5)))

    def test_a_file_of_another_kind_is_refused(self, torchcfm_file):
        with pytest.raises(ValueError, match="EDM's network"):
            flows.load(section("edm", torchcfm_file))

    def test_options_of_another_kind(self, torchcfm_file):
        with pytest.raises(
            ValueError, match=r"for 'edm', and optionally scheduler, labels, guidance_scale, got .*num_heads"
        ):
            flows.load(section("edm", torchcfm_file, num_heads=4))
        with pytest.raises(
            ValueError, match=r"wanted the fields name, path, missing, remedy for 'torchcfm', and optionally"
        ):
            flows.load(ConfigDict(dict(name="torchcfm", path="x")))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")  # random weights are no flow: the slope at t = 0 is warned of
def test_a_published_checkpoint_goes_through_the_pipeline(torchcfm_file, tmp_path, monkeypatch):
    """The config of CIFAR-10 with a file like torchcfm's, but small: paths, a fit of one step, results."""
    monkeypatch.setattr(page, "write", lambda *_: None)  # slow, and not of this test
    monkeypatch.setattr(bj.sharding, "replicate", lambda flow: flow)  # as are eight devices
    config = get_config("cifar10_fmot")
    config.flow.path = str(torchcfm_file)
    with config.unlocked():
        config.flow.update(OPTIONS)
    config.solver.update(base="rk1", num_steps=1)
    config.paths.update(num_train=2, num_validation=2, num_test=2, rtol=0.1, atol=0.1)
    config.fit.choose_start = False
    config.fit.stage1.update(num_iterations=1, batch_size=2, optimizer="adam")
    config.report.num_samples = 1
    assert train.main(config, tmp_path) == 0
    flow = flows.load(config.flow)
    solver = bj.load_solver(tmp_path / "solvers" / "rk1-bespoke-n1.json", flow=flow)
    with np.load(tmp_path / "paths" / "test.npz") as paths:
        assert paths["x1"].shape == (2, 8, 8, 3)
        error = bj.metrics.rmse(measure.end_points(flow, solver, paths["x0"]), paths["x1"], event_ndim=3).mean()
    rows = (tmp_path / "results.csv").read_text().splitlines()
    (row,) = (row for row in rows if row.startswith("rk1-bespoke,1,"))
    assert float(row.split(",")[2]) == pytest.approx(float(error), rel=1e-4)
