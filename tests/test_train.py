"""The launcher `experiments.train`: what it leaves, that it resumes, what it refuses. On a problem of seconds."""

import csv
import functools
import json
import pathlib
import shutil
import struct
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tensorboardX.proto import event_pb2

import bespoke_jax as bj
from experiments import train
from experiments.learning import flows, learn, measure, rivals, settings, truth
from experiments.report import page
from experiments.run import runs, stopping
from tests.conftest import flows_on
from tests.small_run import small_config

pytestmark = pytest.mark.usefixtures("one_device")

ROOT = pathlib.Path(__file__).parents[1]
# One optimiser: two are not equal, and share nothing compiled.
RUINOUS = bj.Recipe(stages=(bj.Stage("endpoint", 3, optax.sgd(np.nan), batch_size=8),), choose_start=False)


@pytest.fixture
def config():
    return small_config()


def read_csv(path):
    with open(path) as file:
        return list(csv.DictReader(file))


def read_scalars(folder):
    """tag -> iteration -> value, from the event files of a folder: records of length, checksum, content, checksum."""
    scalars = {}
    for path in folder.glob("events.out.tfevents.*"):
        content, at = path.read_bytes(), 0
        while at < len(content):
            (length,) = struct.unpack_from("<Q", content, at)
            event = event_pb2.Event.FromString(content[at + 12 : at + 12 + length])
            at += length + 16
            for value in event.summary.value:
                scalars.setdefault(value.tag, {})[event.step] = value.simple_value
    return scalars


class TestOutput:
    def test_results(self, whole_run):
        rows = read_csv(whole_run / "results.csv")
        assert list(rows[0]) == ["solver", "nfe", "rmse", "psnr"]
        assert {(row["solver"], row["nfe"]) for row in rows} == {
            ("rk1", "2"), ("rk1", "4"), ("rk2", "2"), ("rk2", "4"), ("rk4", "4"),
            ("rk1-bespoke", "2"), ("rk2-bespoke", "4"),
        }  # fmt: skip
        for row in rows:
            assert float(row["psnr"]) == pytest.approx(20 * np.log10(2 / float(row["rmse"])), abs=1e-3)

    def test_detail_has_the_same_rows_and_more_columns(self, whole_run):
        rows, detail = (read_csv(whole_run / name) for name in ("results.csv", "results_detail.csv"))
        assert [{k: row[k] for k in rows[0]} for row in detail] == rows
        assert set(detail[0]) - set(rows[0]) == {"mean_psnr", "standard_error", "mean_psnr_standard_error"}

    def test_results_are_those_of_the_solvers_on_noise_of_the_seed(self, whole_run, config):
        plan, flow = settings.read(config), flows.load(config.flow)
        x0 = flow.noise(plan.key("test"), (plan.num_paths["test"],))
        size = plan.stages[0].chunk_size  # the paths of a batch share their steps
        paths = bj.ground_truth(flow, x0, plan.rtol, plan.atol, batch_size=size)
        ends = bj.solve(flow, bj.load_solver(whole_run / "solvers" / "rk2-bespoke-n2.json"), x0)
        error = bj.metrics.rmse(ends, paths.x1, event_ndim=3)
        (row,) = (row for row in read_csv(whole_run / "results.csv") if row["solver"] == "rk2-bespoke")
        assert float(row["rmse"]) == pytest.approx(float(error.mean()), rel=1e-4)

    def test_solver_files_say_how_the_fit_went(self, whole_run):
        info = json.loads((whole_run / "solvers" / "rk1-bespoke-n2.json").read_text())["info"]
        assert [record["iteration"] for record in info["history"]] == [0, 1, 2, 3, 4, 5]
        assert [record["stage"] for record in info["history"]] == ["start"] + 2 * ["rmse_bound"] + 3 * ["endpoint"]
        assert info["validation"]["rmse"] == min(record["rmse"] for record in info["history"])
        assert info["cost"] > 0

    def test_report_is_self_contained(self, whole_run):
        page = (whole_run / "report.html").read_text()
        figures = {path.stem for path in (whole_run / "figures").glob("*.png")}
        per_base = {f"{name}_{base}" for name in ("knots", "samples", "paths") for base in ("rk1", "rk2")}
        assert figures == {"error_against_nfe", "error_against_iteration", "errors_at_4"} | per_base
        assert page.count('src="data:image/png;base64,') == len(figures)
        assert 'src="http' not in page and "href=" not in page
        assert all(name in page for name in ("rk1-bespoke", "rk2-bespoke", "rk4"))
        (found,) = (row for row in read_csv(whole_run / "results_dedicated.csv") if row["nfe"] == "4")
        assert found["solver"] in rivals.USUAL and f">{found['solver']}</td>" in page
        costs = json.loads((whole_run / "costs.json").read_text())
        assert all(
            f"<td>{costs[name]['seconds']:.0f}</td></tr>" in page for name in ("rk1-bespoke-n2", "rk2-bespoke-n2")
        )

    def test_paths_pass_the_checks_of_a_run_that_goes_on(self, whole_run, config):
        """Else they would be solved again each time."""
        plan, flow = settings.read(config), flows.load(config.flow)
        ends_only = all(stage.is_of_ends for stage in plan.stages)
        check_paths = functools.partial(truth._check_paths, ends_only=ends_only)
        for name, check in (("train", check_paths), ("validation", check_paths), ("test", truth._check_ends)):
            check(runs._arrays_in(whole_run / "paths" / f"{name}.npz"), truth._noises(flow, plan, name))

    def test_checkpoints(self, whole_run):
        for name in ("rk1-bespoke-n2", "rk2-bespoke-n2"):
            assert {path.name for path in (whole_run / "checkpoints" / name).iterdir()} == {"4", "5"}

    def test_every_validation_is_kept(self, whole_run):
        flow = flows.load(small_config().flow)
        found = runs.Run(whole_run).validations(flow)
        assert set(found) == {"rk1-bespoke-n2", "rk2-bespoke-n2"}
        info = json.loads((whole_run / "solvers" / "rk1-bespoke-n2.json").read_text())["info"]
        thetas = dict(found["rk1-bespoke-n2"])
        assert list(thetas) == [0, 1, 2, 3, 4, 5]
        np.testing.assert_array_equal(thetas[0].raw, bj.init_theta("rk1", 2).raw)
        chosen = bj.load_solver(whole_run / "solvers" / "rk1-bespoke-n2.json")
        np.testing.assert_array_equal(thetas[info["validation"]["iteration"]].raw, chosen.raw)
        kept = json.loads((whole_run / "validations" / "rk1-bespoke-n2" / "3.json").read_text())["info"]
        assert kept == info["history"][3]

    def test_scalars(self, whole_run):
        history = json.loads((whole_run / "solvers" / "rk1-bespoke-n2.json").read_text())["info"]["history"]
        scalars = read_scalars(whole_run / "tensorboard" / "rk1-bespoke-n2")
        for tag in ("rmse", "psnr"):
            assert scalars[tag] == {r["iteration"]: pytest.approx(r[tag]) for r in history}
        assert sorted(scalars["loss"]) == [1, 2, 3, 4, 5]

    def test_no_half_written_files(self, whole_run):
        assert not [path for path in whole_run.rglob(".*") if path.is_file()]

    def test_started_again_it_does_no_work_twice(self, whole_run, config, monkeypatch):
        before = (whole_run / "results.csv").read_bytes()
        for module, name in ((bj, "fit"), (bj, "ground_truth")):
            monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("worked again"))
        assert train.main(config, whole_run) == 0
        assert (whole_run / "results.csv").read_bytes() == before

    def test_report_fields_may_change(self, whole_run, config):
        config.report.num_samples = 2
        assert train.prepare(config, whole_run)[0].num_samples == 2


class Killed(Exception):
    """Stands for a kill: nothing in the launcher catches it."""


@pytest.mark.usefixtures("no_report")
class TestResume:
    @pytest.mark.parametrize(
        "saves",
        [
            pytest.param(1, id="start", marks=pytest.mark.slow),
            pytest.param(3, id="stage change"),
            pytest.param(5, id="last but one", marks=pytest.mark.slow),
            pytest.param(6, id="before the file", marks=pytest.mark.slow),
            pytest.param(8, id="second solver"),
        ],
    )
    def test_goes_on_to_the_same_result(self, tmp_path, whole_run, config, monkeypatch, saves):
        fits, save = [], runs.Checkpoints.save

        def save_then_die(self, iteration, state):
            save(self, iteration, state)
            fits.append(iteration)
            if len(fits) == saves:
                raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(runs.Checkpoints, "save", save_then_die)
            with pytest.raises(Killed):
                train.main(config, tmp_path)
        assert not (tmp_path / "results.csv").exists()

        def save_and_count(self, iteration, state):
            save(self, iteration, state)
            fits.append(iteration)

        monkeypatch.setattr(runs.Checkpoints, "save", save_and_count)
        assert train.main(config, tmp_path) == 0
        assert fits == 2 * [0, 1, 2, 3, 4, 5]  # each iteration of each solver once
        assert (tmp_path / "results.csv").read_bytes() == (whole_run / "results.csv").read_bytes()

    def test_one_solver_alone_is_the_one_of_the_whole_run(self, tmp_path, whole_run, config):
        config.solver.num_steps = 2
        assert train.main(config, tmp_path) == 0
        assert {row["solver"] for row in read_csv(tmp_path / "results.csv")} == {"rk1", "rk2", "rk4", "rk2-bespoke"}
        alone, together = (bj.load_solver(f / "solvers" / "rk2-bespoke-n2.json") for f in (tmp_path, whole_run))
        np.testing.assert_array_equal(alone.raw, together.raw)


@pytest.mark.usefixtures("no_pictures")
class TestFailure:
    @pytest.mark.parametrize("broken", [{"rk1"}, pytest.param({"rk1", "rk2"}, marks=pytest.mark.slow)])
    def test_a_solver_that_fails_leaves_the_others(self, tmp_path, config, monkeypatch, broken, capsys):
        fit_on = learn.fit_on

        def fails(flow, theta, key, recipe, *args):
            return fit_on(flow, theta, key, RUINOUS if theta.base in broken else recipe, *args)

        monkeypatch.setattr(learn, "fit_on", fails)
        assert train.main(config, tmp_path) == 1
        learned = {row["solver"] for row in read_csv(tmp_path / "results.csv")} - {"rk1", "rk2", "rk4"}
        assert learned == {f"{base}-bespoke" for base in {"rk1", "rk2"} - broken}
        said, file = capsys.readouterr().err, tmp_path / "failed" / "rk1-bespoke-n2.json"
        assert "rk1-bespoke-n2 failed" in said and "lower the learning rate. " in said and str(file) in said
        assert "loss &#x27;endpoint&#x27; or its gradient is not finite" in (tmp_path / "report.html").read_text()
        # What it had reached: midpoint and Euler themselves, and their error on the held-out paths.
        kept, info = bj.load_solver(file), json.loads(file.read_text())["info"]
        np.testing.assert_array_equal(kept.raw, bj.init_theta("rk1", 2).raw)
        plan, flow = settings.read(config), flows.load(config.flow)
        paths = bj.ground_truth(flow, flow.noise(plan.key("validation"), (8,)))
        error = bj.metrics.rmse(bj.solve(flow, kept, paths.x0), paths.x1, event_ndim=3).mean()
        assert info["validation"]["rmse"] == pytest.approx(float(error), rel=1e-4)


def test_options_of_a_fit_reach_its_recipe(config):
    config.fit.stage2.update(optimizer="lm_untested", num_iterations=30)
    config.fit.num_start_paths = 5
    plan = settings.read(config)
    method = plan.stages[1].optimizer
    assert method == bj.untested_steps(30) and method.tries == 0 and method.shrink**30 == pytest.approx(1000)
    assert plan.num_start_paths == learn._recipe(None, plan.jobs[0], plan).num_start_paths == 5
    with config.unlocked():
        del config.fit.num_start_paths  # a config of an earlier version
    assert settings.read(config).num_start_paths == 32


class TestRefusals:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"fit.stage1.loss": "mse"}, r"config\.fit\.stage1\.loss: wanted one of \['endpoint', .*got 'mse'"),
            ({"fit.stage2.optimizer": "sgd"}, r"config\.fit\.stage2\.optimizer: wanted .* got 'sgd'"),
            ({"fit.stage1.batch_size": 0}, r"config\.fit\.stage1\.batch_size: wanted an integer >= 1, got 0"),
            ({"fit.stage1.learning_rate": -1.0}, r"config\.fit\.stage1\.learning_rate: wanted .* got -1.0"),
            ({"fit.stage1.num_iterations": 0, "fit.stage2.num_iterations": 0}, r"config\.fit: wanted num_iterations >= 1"),
            ({"fit.stage1.lossy": 1}, r"config\.fit\.stage1\.lossy: no such field"),
            ({"fit.stage4": {}}, r"config\.fit\.stage4: no such field"),
            ({"fit.num_start_paths": 0}, r"config\.fit\.num_start_paths: wanted an integer >= 1, got 0"),
            ({"fit.num_start_path": 8}, r"config\.fit\.num_start_path: no such field"),
            ({"fit.budget": -1}, r"config\.fit\.budget: wanted an integer >= 0, got -1"),
            ({"fit.budget": 700}, r"config\.fit\.budget: wanted at least \d+ .* got 700\. It is rk\d-bespoke-n2"),
            ({"solvers.rk3": (4,)}, r"config\.solvers: wanted one of .*'rk2'.* got 'rk3'"),
            ({"solvers.calls": (4,)}, r"config\.solvers\.calls: flow: wanted a guided flow"),
            ({"solvers.calls": (4, 5)}, r"config\.solvers\.calls: wanted even numbers of network calls, got 5"),
            ({"solver.base": "calls", "solver.num_steps": 3}, r"config\.solvers\.calls: wanted even numbers .*, got 3"),
            ({"solvers.rk2": (4, 4)}, r"config\.solvers: .* none twice, got"),
            ({"solvers.rk2": (0,)}, r"config\.solvers\.rk2: wanted an integer .* got 0"),
            ({"solvers": {}}, r"config\.solvers: wanted one solver or more, .* got \{\}"),
            ({"solver.base": "dopri5", "solver.num_steps": 3}, r"config\.solver\.base: wanted .* got 'dopri5'"),
            ({"paths.rtol": 0.0}, r"config\.paths\.rtol: wanted a finite number > 0, got 0.0"),
            ({"paths.num_train": -3}, r"config\.paths\.num_train: wanted an integer >= 1, got -3"),
            ({"report.num_samples": 13}, r"config\.report\.num_samples: wanted an integer from 1 to 12, got 13"),
            ({"seed": True}, r"config\.seed: wanted .* got True"),
            ({"flow.name": "imagenet"}, r"config\.flow\.name: wanted one of \['checkpoint', .*got 'imagenet'"),
            ({"flow.sigma": 1.0}, r"config\.flow: wanted the fields .* for 'mixture'.* got .*sigma"),
        ],
    )  # fmt: skip
    def test_bad_config(self, tmp_path, config, change, message):
        with config.unlocked(), config.ignore_type():
            for field, value in change.items():
                *sections, name = field.split(".")
                place = config
                for section in sections:
                    place = place[section]
                place[name] = value
        with pytest.raises(ValueError, match=message):
            train.prepare(config, tmp_path / "new")
        assert not (tmp_path / "new").exists()

    def test_paths_that_cannot_be_solved(self, tmp_path, config, monkeypatch):
        config.paths.rtol = config.paths.atol = 1e-12  # more than float32 has
        monkeypatch.setattr(truth.bj, "ground_truth", functools.partial(bj.ground_truth, max_steps=20))
        with pytest.raises(SystemExit, match=r"true paths, train: ground_truth: .* loosen the tolerances"):
            train.main(config, tmp_path)

    def test_missing_field(self, tmp_path, config):
        del config.paths.atol
        with pytest.raises(ValueError, match=r"config\.paths\.atol: missing"):
            train.prepare(config, tmp_path)

    def test_workdir_of_another_config(self, whole_run, config):
        config.fit.stage1.num_iterations, config.flow.std = 7, 0.2
        before = (whole_run / "config.json").read_bytes()
        with pytest.raises(ValueError, match=r"holds a run of another config") as caught:
            train.prepare(config, whole_run)
        assert "  config.fit.stage1.num_iterations: 2 there, 7 here\n" in str(caught.value)
        assert "  config.flow.std: 0.25 there, 0.2 here\n" in str(caught.value)
        assert "seed" not in str(caught.value)
        assert (whole_run / "config.json").read_bytes() == before

    def test_workdir_with_foreign_checkpoints(self, tmp_path, config):
        (tmp_path / "checkpoints").mkdir()
        with pytest.raises(ValueError, match=r"workdir: .* something else .* give another --workdir"):
            train.prepare(config, tmp_path)

    def test_workdir_that_cannot_be_written(self, tmp_path, config):
        (tmp_path / "file").write_text("not a folder")
        with pytest.raises(ValueError, match=r"workdir: .*file/run cannot be used .* give another --workdir"):
            train.prepare(config, tmp_path / "file" / "run")


@pytest.mark.slow
def test_a_command_line_error_is_short():
    """test_experiments_command_line.py has all the others, without a process for each."""
    command = [sys.executable, "-m", "experiments.train", "--config.fit.stage1.los=rmse"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert 'Did you mean "loss"' in done.stderr
    assert "Traceback" not in done.stderr


class TestParts:
    def test_keys_differ_by_purpose_and_index(self, config):
        plan = settings.read(config)
        keys = [plan.key(purpose, index) for purpose in ("train", "validation", "test", "fit") for index in (0, 1)]
        assert len({tuple(jax.random.key_data(key).tolist()) for key in keys}) == len(keys)

    def test_jobs_have_numbers_of_their_own(self):
        jobs = [settings.Job(base, n) for base in ("rk1", "rk2") for n in range(1, 20)]
        assert len({job.index for job in jobs}) == len({job.name for job in jobs}) == len(jobs)

    def test_stage_without_iterations_is_left_out(self, config):
        config.fit.stage1.num_iterations = 0
        assert [stage.name for stage in settings.read(config).stages] == ["endpoint"]

    def test_terminal_table_is_aligned(self):
        rows = [measure.Row("rk1", 8, 0.5, 12.04, 12.0, 0.1), measure.Row("rk2-bespoke", 16, 0.001, 66.02, 66.0, 0.1)]
        lines = measure.as_text(rows).splitlines()[2:]
        assert lines[0].split() == ["NFE", "rk1", "rk2-bespoke"]
        assert lines[2].split() == ["8", "0.5000", "12.04"] and lines[3].split() == ["16", "0.0010", "66.02"]
        assert len({len(line) for line in (lines[0], lines[1], lines[3])}) == 1

    def test_report_does_without_pictures_of_vectors(self, tmp_path, config):
        plan = settings.read(config)
        flow = bj.analytic.gaussian(np.zeros(3), 0.5)
        run = runs.open_run(tmp_path, {})
        job, theta = settings.Job("rk1", 2), bj.init_theta("rk1", 2)
        paths = truth.solve(flow, plan, run)
        record = dict(stage="start", iteration=0, loss=None, rmse=0.1, psnr=26.0)
        rows = [measure.Row("rk1", 2, 0.1, 26.0, 26.0, 0.01)]
        learned, none = {job: learn.Learned(theta, [record], 1)}, rivals.Rivals([], {}, 0, 0, 0)
        page.write(run, flow, plan, paths, learned, {}, measure.Measured(rows, {}), none, {})
        assert not (tmp_path / "figures" / "samples_rk1.png").exists()
        assert (tmp_path / "figures" / "paths_rk1.png").exists()


def test_tables_are_learned_first_and_told_at_once(config, monkeypatch, tmp_path):
    config.solvers = dict(rk1=(2,), rk2=(2,), table=(2, 3))
    plan, happened, run = settings.read(config), [], types.SimpleNamespace(folder=tmp_path)

    def of_job(flow, job, *_, label):
        happened.append(label)
        return learn.Learned(job, [], 0)

    monkeypatch.setattr(learn, "learn", of_job)
    learned, failed = learn.learn_all(None, plan, None, run, then=lambda job, _: happened.append(job.name))
    names = ["table-n2", "table-n3", "rk1-bespoke-n2", "rk2-bespoke-n2"]
    assert happened == [text for i, name in enumerate(names, 1) for text in (f"{name} [{i}/4]", name)]
    assert list(learned) == list(plan.jobs) and not failed
    assert all(result.theta == job and result.seconds >= 0 for job, result in learned.items())


def test_a_gain_is_told_and_nothing_is_measured_twice(monkeypatch):
    flow = bj.analytic.gaussian([1.0, -1.0], 0.1)
    x0 = flow.noise(jax.random.key(0), (4,))
    x1, solved = flow.params["means"] + 0.1 * x0, []
    end_points = measure.end_points
    monkeypatch.setattr(measure, "end_points", lambda *args: solved.append(args[1]) or end_points(*args))
    fresh, job = measure.FreshNoise(flow, x0, x1, keep=2), settings.Job("table", 3)
    theta = bj.classic.euler(3)
    assert ", +0.0 dB over rk1 without learning (" in fresh.gain(job, theta)
    rows, samples = fresh.measure([job], {job: theta})
    assert [(row.solver, row.nfe) for row in rows] == [("rk1", 3), ("table", 3)] and len(solved) == 2
    assert rows[0][2:] == rows[1][2:] and len(samples["rk1", 3]) == 2
    assert [measure.plain_solver(settings.Job(*of)) for of in (("table", 4), ("rk1", 4), ("rk2", 3))] == [
        "rk2",
        "rk1",
        "rk2",
    ]


@pytest.mark.filterwarnings("ignore:fit. on the held-out paths psnr is")
@pytest.mark.usefixtures("no_pictures")
@pytest.mark.slow
def test_a_budget_is_kept_without_paths_of_the_run_and_after_an_interruption(tmp_path, config):
    config.fit.budget = 4000
    config.solvers = dict(rk2=(2,))
    assert train.main(config, tmp_path / "whole") == 0
    assert [path.name for path in (tmp_path / "whole" / "paths").iterdir()] == ["test.npz"]
    info = json.loads((tmp_path / "whole" / "solvers" / "rk2-bespoke-n2.json").read_text())["info"]
    assert 3600 < info["cost"] <= 4000 and len(info["history"]) == 9
    assert info["validation"]["mean_psnr"] == max(record["mean_psnr"] for record in info["history"])
    assert info["validation"]["mean_psnr"] > info["history"][0]["mean_psnr"] + 3
    assert "true ends included" in (tmp_path / "whole" / "report.html").read_text()

    def interrupt():
        raise KeyboardInterrupt

    looks = iter([lambda: None, lambda: None, lambda: None, interrupt])  # after the test set, and twice in the fit
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stopping, "stop_if_asked", lambda: next(looks)())
        with pytest.raises(KeyboardInterrupt):
            train.main(config, tmp_path / "resumed")
    assert train.main(config, tmp_path / "resumed") == 0
    whole, resumed = (
        (tmp_path / name / "solvers" / "rk2-bespoke-n2.json").read_bytes() for name in ("whole", "resumed")
    )
    assert whole == resumed


@pytest.mark.usefixtures("no_report")
@pytest.mark.slow  # test_sharding.py has fits on many devices
def test_on_two_devices_the_figures_are_those_of_one(tmp_path, config, whole_run):
    config.solvers = dict(rk1=(2,))
    with flows_on(2):
        assert train.main(config, tmp_path) == 0
    wanted = {(row["solver"], row["nfe"]): float(row["rmse"]) for row in read_csv(whole_run / "results.csv")}
    found = {(row["solver"], row["nfe"]): float(row["rmse"]) for row in read_csv(tmp_path / "results.csv")}
    assert ("rk1-bespoke", "2") in found
    assert found == {key: pytest.approx(wanted[key], rel=1e-3) for key in found}


@pytest.mark.usefixtures("no_report")
@pytest.mark.slow
def test_one_solver_for_all_conditions(tmp_path, config, monkeypatch):
    """Started twice, it has the paths of the same conditions; what was measured is what each condition's own flow gives."""
    centres = jnp.array([[1.0, 0.0], [-0.5, 2.0], [0.0, -1.5]])

    def velocity(params, t, x):
        return jnp.tanh(params["condition"] - x) * (1 + t * x)

    one = bj.Flow(velocity, {"condition": centres[0]}, (2,))
    flow = bj.sharding.replicate(bj.given(one, centres))
    monkeypatch.setattr(flows, "load", lambda section: flow)
    config.solvers = dict(rk1=(2,))
    config.paths.num_test = 11  # no multiple of three conditions
    config.fit.stage1.num_iterations = 0  # the losses of single steps have their own test: test_conditions
    assert train.main(config, tmp_path) == 0
    first = (tmp_path / "results.csv").read_bytes()
    path = tmp_path / "solvers" / "rk1-bespoke-n2.json"
    path.unlink()
    shutil.rmtree(tmp_path / "checkpoints" / "rk1-bespoke-n2")
    assert train.main(config, tmp_path) == 0
    assert (tmp_path / "results.csv").read_bytes() == first

    conditions = truth.dealt(flow, settings.read(config), "test").params["condition"]
    _, counts = np.unique(np.asarray(conditions), axis=0, return_counts=True)
    assert sorted(counts) == [3, 4, 4]
    with np.load(tmp_path / "paths" / "test.npz") as test:
        sets = list(zip(conditions, test["x0"], test["x1"], strict=True))
    solver = bj.load_solver(path)
    errors = [
        bj.metrics.rmse(bj.solve(bj.Flow(velocity, {"condition": c}, (2,)), solver, x0), x1, 1) for c, x0, x1 in sets
    ]
    assert float(read_csv(tmp_path / "results.csv")[-1]["rmse"]) == pytest.approx(np.mean(errors), rel=1e-4)
