"""The launcher `experiments.evaluate`: what it measures is right, what it leaves, what it refuses. On a problem of seconds."""

import contextlib
import csv
import io

import jax
import numpy as np
import pytest

import bespoke_jax as bj
from experiments import evaluate, train
from experiments.configs import tiny
from experiments.learning import compare, flows, measure, settings

pytestmark = pytest.mark.usefixtures("one_device")


def small_config():
    config = tiny.get_config()
    config.flow.image_size, config.flow.num_components = 4, 3
    config.solvers = dict(rk2=(2,))
    config.paths.update(num_train=8, num_validation=8, num_test=8)
    config.report.num_samples = 4
    return config


@pytest.fixture
def config():
    return small_config()


@pytest.fixture(scope="module")
def flow():
    return flows.load(small_config().flow)


@pytest.fixture(scope="module")
def noises(flow):
    """(x0, x1) of the test set, [8, 4, 4, 1]."""
    x0 = flow.noise(settings.read(small_config()).key("test"), (8,))
    return np.asarray(x0), np.asarray(bj.adjoint.end_points(flow, bj.classic.rk4(64), x0))


@pytest.fixture(scope="module")
def done(tmp_path_factory, flow, noises):
    """(folder, what was printed). In the folder was what `train` leaves: true paths and solvers.

    One is a theta that is the midpoint method, the other a table at an NFE that no job has.
    """
    folder = tmp_path_factory.mktemp("runs") / "whole"
    for name in ("solvers", "paths"):
        (folder / name).mkdir(parents=True)
    curves = np.ones((65, 4, 4, 4, 1))
    np.savez(folder / "paths" / "test.npz", x0=noises[0], x1=noises[1], evaluations=np.ones(8), curves=curves)
    bj.save_solver(folder / "solvers" / "rk2-bespoke-n2.json", bj.init_theta("rk2", 2), flow=flow)
    bj.save_solver(folder / "solvers" / "mine.json", bj.classic.ipndm(3), flow=flow)
    with contextlib.redirect_stdout(io.StringIO()) as printed, pytest.MonkeyPatch.context() as patch:
        patch.setattr(bj, "ground_truth", lambda *_, **__: pytest.fail("solved again"))
        evaluate.main(small_config(), folder)
    return folder, printed.getvalue()


def read_csv(path):
    with open(path) as file:
        return {(row["solver"], int(row["nfe"])): row for row in csv.DictReader(file)}


def test_rows(done):
    rows = read_csv(done[0] / "evaluate.csv")
    assert list(next(iter(rows.values()))) == list(measure.Row._fields)
    plain = {("euler/uniform", 3), ("euler/uniform", 4), ("midpoint/uniform", 4), ("rk4/uniform", 4)}
    assert {("rk2-bespoke", 4), ("mine", 3)} | plain < set(rows)
    assert any(solver.startswith("genie/") for solver, nfe in rows if nfe == 4)
    for row in rows.values():
        assert float(row["psnr"]) == pytest.approx(20 * np.log10(2 / float(row["rmse"])), abs=1e-3)


def test_figures_are_those_of_the_solvers(done, flow, noises):
    rows = read_csv(done[0] / "evaluate.csv")
    x0, x1 = noises
    ends = {
        ("mine", 3): bj.solve(flow, bj.classic.ipndm(3), x0),
        ("rk2-bespoke", 4): bj.solve(flow, bj.classic.midpoint(4), x0),
    }
    ((genie, grid),) = {(name, name.split("/")[1]) for name, _ in rows if name.startswith("genie/")}
    ends[genie, 4] = bj.solve(flow, bj.classic.genie(4, flow.scheduler, grid=grid), x0)
    for name, found in ends.items():
        error = np.sqrt(np.mean((found - x1) ** 2, axis=(1, 2, 3)))
        assert float(rows[name]["rmse"]) == pytest.approx(error.mean(), rel=1e-4)
        assert float(rows[name]["mean_psnr"]) == pytest.approx((20 * np.log10(2 / error)).mean(), abs=1e-3)
    assert float(rows["midpoint/uniform", 4]["rmse"]) == pytest.approx(float(rows["rk2-bespoke", 4]["rmse"]), rel=1e-4)


def test_every_dedicated_solver_is_tried_and_the_best_are_measured(done, flow):
    rows, screened = (read_csv(done[0] / name) for name in ("evaluate.csv", "evaluate_screening.csv"))
    plain = {"euler/uniform", "midpoint/uniform", "rk4/uniform"}
    for nfe in (3, 4):
        tried = {solver for solver, n in screened if n == nfe}
        genie = {f"genie/{grid}" for grid in bj.classic.GRIDS} if nfe == 4 else set()
        assert tried == (set(bj.classic.dedicated(nfe, flow.scheduler)) - plain) | genie
        for figure in ("psnr", "mean_psnr"):
            best = max(float(screened[solver, nfe][figure]) for solver in tried)
            # All 8 noises are the few that they were tried on.
            found = [float(row[figure]) for (solver, n), row in rows.items() if n == nfe and solver in tried]
            assert max(found) == pytest.approx(best, abs=0.02)
            assert len(found) >= compare.NUM_FINALISTS


def test_what_is_printed(done):
    folder, text = done
    assert "8 fresh noises" in text and f"from {folder / 'solvers'}" in text and "tried on the first 8" in text
    rows = read_csv(folder / "evaluate.csv")
    block = text[text.index("NFE 4 ") :].splitlines()
    assert [line.split()[0] for line in block if line.startswith("  ") and line[2] != " "] == [
        "learned", "dedicated", "plain", "rk2-bespoke:"
    ]  # fmt: skip
    others = [float(row["psnr"]) for (solver, nfe), row in rows.items() if nfe == 4 and solver != "rk2-bespoke"]
    gain = float(rows["rk2-bespoke", 4]["psnr"]) - max(others)
    assert f"rk2-bespoke: PSNR {gain:+.2f} dB over" in text
    assert str(folder / "evaluate.csv") in text


def test_picture(done):
    assert (done[0] / "figures" / "evaluate.png").read_bytes().startswith(b"\x89PNG")


def test_without_paths_of_a_run_they_are_solved(tmp_path, config, noises, monkeypatch):
    config.fit.stage1.chunk_size = 5
    asked = []
    monkeypatch.setattr(bj, "ground_truth", lambda flow, x0, *_, **__: asked.append(x0))
    with pytest.raises(AttributeError):  # no paths came back
        evaluate.main(config, tmp_path)
    # Those of the test set, and no others: a batch for whole paths, the rest for their ends.
    assert [len(x0) for x0 in asked] == [5, 3] and np.array_equal(np.concatenate(asked), noises[0])


@pytest.fixture
def run(tmp_path, config):
    return train.prepare(config, tmp_path)[2]


def test_solvers_of_another_flow_are_a_warning(run, flow):
    (run.folder / "solvers").mkdir()
    other = bj.Flow(flow.velocity, flow.params | dict(std=2 * flow.params["std"]), flow.event_shape, flow.scheduler)
    bj.save_solver(run.folder / "solvers" / "s.json", bj.classic.euler(2), flow=other)
    with pytest.warns(UserWarning, match=r"s\.json: learned for another flow"):
        (name, _), = compare.learned_solvers(run, flow, "mixture", ())[0]  # fmt: skip
    assert name == "s"


def test_without_solvers_of_its_own_a_shipped_flow_has_those_that_were_shipped(run, flow):
    jobs = [settings.Job("rk2", 5), settings.Job("rk1", 3)]  # of the second there is none
    ((name, solver),), where = compare.learned_solvers(run, flow, "fashion_fmot", jobs)
    assert (name, solver.nfe) == ("rk2-bespoke", 10) and "shipped" in where
    nothing, where = compare.learned_solvers(run, flow, "mixture", jobs)
    assert nothing == [] and "experiments.train" in where


def test_screening_on_a_few_noises_and_a_flow_without_scheduler():
    known = bj.analytic.mixture([[-1.0, 0.5], [1.0, 0.0]], std=0.3)
    flow = bj.Flow(known.velocity, known.params, known.event_shape)
    x0 = flow.noise(jax.random.key(0), (6,))
    x1 = bj.adjoint.end_points(flow, bj.classic.rk4(64), x0)
    found = compare.compare(flow, [4], [], x0, x1, num_screened=2, num_finalists=3)
    assert (found.num_noises, found.num_screened, found.learned) == (6, 2, [])
    assert {row.solver for row in found.screened + found.plain} == set(bj.classic.dedicated(4, None))
    assert len({row.solver for row in found.dedicated}) == len(found.dedicated) == 3
    assert "none here" in compare.as_text(found, "none here")


def test_a_solver_that_blew_up_is_last():
    x1 = np.zeros((2, 3))
    bad, good = (measure.row_of("s", 4, np.full((2, 3), value), x1) for value in (np.nan, 1.0))
    assert bad.rmse == np.inf and bad.psnr == bad.mean_psnr == -np.inf
    assert compare.curves([bad, good]) == {"s": {4: good}}


def test_of_each_method_the_best_grid_is_drawn():
    rows = [
        measure.Row(solver, nfe, 0.1, psnr, psnr, 0.0)
        for solver, nfe, psnr in [("a/x", 2, 10.0), ("a/y", 2, 12.0), ("a/x", 4, 20.0), ("b/x", 4, 30.0)]
    ]
    _, a_y2, a_x4, b_x4 = rows
    assert compare.curves(rows, by_method=True) == {"b": {4: b_x4}, "a": {2: a_y2, 4: a_x4}}
    assert list(compare.curves(rows)) == ["b/x", "a/x", "a/y"]


def test_solvers_that_are_the_same_in_other_words_count_once():
    rows = [
        measure.Row(solver, 4, 0.1, psnr, psnr, 0.0)
        for solver, psnr in [("a/x", 30.0), ("b/x", 30.0), ("a/y", 20.0), ("c/x", 10.0)]
    ]
    assert compare._finalists(rows, 2) == {("a/x", 4), ("a/y", 4)}


class TestRefusals:
    def test_workdir_of_another_config(self, done, config):
        config.seed = 5
        with pytest.raises(SystemExit, match=r"config\.seed: 0 there, 5 here"):
            evaluate.main(config, done[0])

    def test_a_broken_solver_file(self, tmp_path, config):
        (tmp_path / "solvers").mkdir()
        (tmp_path / "solvers" / "s.json").write_text("{")
        with pytest.raises(SystemExit, match=r"s\.json: not a complete JSON file"):
            evaluate.main(config, tmp_path)

    def test_missing_weights(self, tmp_path, config):
        config.flow = dict(name="checkpoint", path="", missing="the weights.", remedy="Train them.")
        with pytest.raises(SystemExit, match=r"config\.flow\.path is empty"):
            evaluate.main(config, tmp_path)
