"""The launcher `experiments.fid`, on a closed-form mixture, with pixels for features."""

import csv

import numpy as np
import pytest

import bespoke_jax as bj
from bespoke_jax.models import inception
from experiments import fid, flows, measure, settings, train
from experiments.configs import tiny


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """Eight would compile as much again; tests/test_sharding.py has them."""
    monkeypatch.setattr(bj.sharding, "replicate", lambda flow: flow)


@pytest.fixture
def config():
    config = tiny.get_config()
    config.flow.image_size, config.flow.num_components = 4, 3
    return config


@pytest.fixture
def reference(config, tmp_path):
    """Statistics of other samples, of nearly exact paths."""
    flow = flows.load(config.flow)
    x0 = flow.noise(settings.read(config).key("train"), (128,))
    x = np.asarray(bj.stepwise.end_points(flow, bj.classic.rk4(16), x0)).reshape(128, -1)
    np.savez(tmp_path / "ref.npz", mu=x.mean(0), sigma=np.cov(x.T))
    return tmp_path / "ref.npz"


@pytest.fixture
def pixels(monkeypatch):
    monkeypatch.setattr(inception, "load", lambda *_: lambda images: np.reshape(images, (len(images), -1)))


@pytest.mark.usefixtures("pixels")
def test_better_solvers_have_smaller_distances(config, reference, tmp_path, capsys):
    flow = flows.load(config.flow)
    with train.prepare(config, tmp_path / "run")[2] as run:
        (run.folder / "solvers").mkdir()
    for name, table in [("crude", bj.classic.euler(1)), ("fair", bj.classic.euler(4)), ("fine", bj.classic.rk4(8))]:
        bj.save_solver(run.folder / "solvers" / f"{name}.json", table, flow=flow)
    fid.main(config, run.folder, reference, "weights", "tensorflow", num_samples=128)
    with open(run.folder / "fid.csv") as file:
        rows = {row["solver"]: row for row in csv.DictReader(file)}
    assert list(rows["fine"]) == ["solver", "nfe", "fid", "num_samples", "convention", "selected_by"]
    assert {row["selected_by"] for row in rows.values()} == {"rmse"}
    distances = [float(rows[name]["fid"]) for name in ("crude", "fair", "fine")]
    assert distances[0] > 1.5 * distances[1] and distances[1] > 1.5 * distances[2]
    assert "FID" in capsys.readouterr().out


@pytest.mark.usefixtures("pixels")
def test_the_iteration_of_the_smallest_distance_may_be_another_than_that_of_the_smallest_rmse(
    config, reference, tmp_path
):
    flow = flows.load(config.flow)
    with train.prepare(config, tmp_path / "run")[2] as run:
        run.finish("rk1-bespoke-n4", bj.classic.euler(4), {}, flow)  # what RMSE had chosen
        for iteration, table in [
            (0, bj.classic.euler(4)),
            (5, bj.classic.rk4(4)),
            (10, bj.classic.euler(4, grid="quadratic")),
        ]:
            run.finish(f"{iteration}", table, {}, folder="validations/rk1-bespoke-n4")
    fid.main(config, run.folder, reference, "weights", "tensorflow", 128, "fid")
    with open(run.folder / "fid_by_iteration.csv") as file:
        distances = {int(row["iteration"]): float(row["fid"]) for row in csv.DictReader(file)}
    assert list(distances) == [0, 5, 10]
    best = min(distances, key=distances.get)
    with open(run.folder / "fid.csv") as file:
        (row,) = csv.DictReader(file)
    assert row["selected_by"] == f"fid, iteration {best}" and float(row["fid"]) == distances[best] < distances[0]
    kept = bj.load_solver(run.folder / "by_fid" / "rk1-bespoke-n4.json", flow=flow)
    wanted = bj.load_solver(run.folder / "validations" / "rk1-bespoke-n4" / f"{best}.json")
    assert np.array_equal(kept.b, wanted.b)


@pytest.mark.usefixtures("pixels")
def test_samples_are_those_of_the_solver_and_of_fresh_noise(config):
    flow, plan = flows.load(config.flow), settings.read(config)
    solver = bj.classic.euler(2)
    seen = []
    found = fid.statistics(flow, solver, plan.key("test", 1), 70, lambda x: seen.append(x) or x.reshape(len(x), -1), "")
    full, rest = divmod(70, measure.BATCH_SIZE)
    assert found.count == 70 and [len(x) for x in seen] == [measure.BATCH_SIZE] * full + [rest]
    assert len(np.unique(np.concatenate(seen).round(6), axis=0)) == 70
    x0 = flow.noise(plan.key("test"), (len(seen[0]),))
    assert not np.allclose(bj.stepwise.end_points(flow, solver, x0), seen[0])


def test_what_is_missing_is_said_without_a_stack(config, reference, tmp_path, monkeypatch):
    def said(*arguments):
        with pytest.raises(SystemExit) as caught:
            fid.main(config, tmp_path / "run", *arguments, "tensorflow", 10)
        return str(caught.value.code)

    assert "none.npz: no such file" in said("none.npz", "weights")
    assert "none.pth: no such file" in said(reference, "none.pth")
    monkeypatch.setattr(inception, "load", lambda *_: None)
    assert "no learned solvers" in said(reference, "weights")
    with pytest.raises(SystemExit, match=r"no validations in .*experiments.train keeps them"):
        fid.main(config, tmp_path / "other", reference, "weights", "tensorflow", 10, "fid")
