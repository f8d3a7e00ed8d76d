"""The launcher `experiments.fid`, on a closed-form mixture, with pixels for features, and with the shipped classifier's."""

import csv
import functools

import numpy as np
import pytest

import bespoke_jax as bj
from bespoke_jax.models import inception
from experiments import fid, train
from experiments.configs import fashion_fmot_class, tiny
from experiments.learning import flows, frechet, measure, settings

pytestmark = pytest.mark.usefixtures("one_device")


def small_config():
    config = tiny.get_config()
    config.flow.image_size, config.flow.num_components = 4, 3
    return config


@pytest.fixture
def config():
    return small_config()


@pytest.fixture(scope="module")
def reference(one_device, tmp_path_factory):
    """Statistics of other samples, of nearly exact paths."""
    config, path = small_config(), tmp_path_factory.mktemp("reference") / "ref.npz"
    flow = flows.load(config.flow)
    x0 = flow.noise(settings.read(config).key("train"), (128,))
    x = np.asarray(bj.adjoint.end_points(flow, bj.classic.rk4(16), x0)).reshape(128, -1)
    np.savez(path, mu=x.mean(0), sigma=np.cov(x.T))
    return path


@pytest.fixture
def pixels(monkeypatch, reference):
    """The statistic of the pixels, as it comes from the command line."""
    monkeypatch.setattr(inception, "load", lambda *_: lambda images: np.reshape(images, (len(images), -1)))
    return functools.partial(frechet.statistic_of, "inception", reference, "weights", "tensorflow")


def rows_of(path):
    """The rows of a .csv."""
    with open(path) as file:
        return list(csv.DictReader(file))


def test_better_solvers_have_smaller_distances(config, pixels, tmp_path, capsys):
    flow = flows.load(config.flow)
    with train.prepare(config, tmp_path / "run")[2] as run:
        (run.folder / "solvers").mkdir()
    for name, table in [("crude", bj.classic.euler(1)), ("fair", bj.classic.euler(4)), ("fine", bj.classic.rk4(8))]:
        bj.save_solver(run.folder / "solvers" / f"{name}.json", table, flow=flow)
    fid.main(config, run.folder, pixels, num_samples=128)
    rows = {row["solver"]: row for row in rows_of(run.folder / "fid.csv")}
    assert list(rows["fine"]) == ["solver", "nfe", "fid", "num_samples", "convention", "selected_by"]
    assert {row["selected_by"] for row in rows.values()} == {"rmse"}
    distances = [float(rows[name]["fid"]) for name in ("crude", "fair", "fine")]
    assert distances[0] > 1.5 * distances[1] and distances[1] > 1.5 * distances[2]
    assert "FID" in capsys.readouterr().out


def test_the_iteration_of_the_smallest_distance_may_be_another_than_that_of_the_smallest_rmse(config, pixels, tmp_path):
    flow = flows.load(config.flow)
    with train.prepare(config, tmp_path / "run")[2] as run:
        run.keep_solver("rk1-bespoke-n4", bj.classic.euler(4), {}, flow)  # what RMSE had chosen
        for iteration, table in [
            (0, bj.classic.euler(4)),
            (5, bj.classic.rk4(4)),
            (10, bj.classic.euler(4, grid="quadratic")),
        ]:
            run.keep_solver(f"{iteration}", table, {}, folder="validations/rk1-bespoke-n4")
    fid.main(config, run.folder, pixels, 128, "fid")
    distances = {int(row["iteration"]): float(row["fid"]) for row in rows_of(run.folder / "fid_by_iteration.csv")}
    assert list(distances) == [0, 5, 10]
    best = min(distances, key=distances.get)
    (row,) = rows_of(run.folder / "fid.csv")
    assert row["selected_by"] == f"fid, iteration {best}" and float(row["fid"]) == distances[best] < distances[0]
    kept = bj.load_solver(run.folder / "by_fid" / "rk1-bespoke-n4.json", flow=flow)
    wanted = bj.load_solver(run.folder / "validations" / "rk1-bespoke-n4" / f"{best}.json")
    assert np.array_equal(kept.b, wanted.b)


def test_a_solver_whose_samples_are_not_finite_does_not_stop_the_others(config, pixels, tmp_path, capsys):
    _, flow, run = train.prepare(config, tmp_path / "run")
    fair = bj.classic.euler(4)
    with run:
        run.keep_solver("a_wild", bj.SolverTable(fair.t, fair.a * 1e30, fair.b), {}, flow)
        run.keep_solver("fair", fair, {}, flow)
    fid.main(config, run.folder, pixels, 64)
    distances = {row["solver"]: float(row["fid"]) for row in rows_of(run.folder / "fid.csv")}
    assert distances["a_wild"] == np.inf and 0 < distances["fair"] < np.inf
    assert "a_wild, NFE 4: wanted finite samples, got others among 0 to" in capsys.readouterr().err


def test_true_paths_and_base_solvers_are_measured_beside_them(config, pixels, tmp_path):
    _, flow, run = train.prepare(config, tmp_path / "run")
    with run:
        run.keep_solver("fine", bj.classic.rk4(64), {}, flow)
    fid.main(config, run.folder, pixels, 64, baselines=True)
    rows = rows_of(run.folder / "fid.csv")
    assert [(row["solver"], row["nfe"], row["selected_by"]) for row in rows] == [
        ("fine", "64", "rmse"),
        *((name, "64", "") for name in ("rk1", "rk2", "rk4")),
        ("exact", "", ""),
    ]
    distances = {row["solver"]: float(row["fid"]) for row in rows}
    assert distances["fine"] == distances["rk4"]  # rk4 is what it is; the noises are the same
    assert abs(distances["fine"] - distances["exact"]) < 0.1 * abs(distances["rk1"] - distances["exact"])


def test_samples_are_those_of_the_solver_and_of_fresh_noise(config):
    flow, plan = flows.load(config.flow), settings.read(config)
    solver = bj.classic.euler(2)
    key, ends = plan.key("test", 1), lambda flow, x0: measure.end_points(flow, solver, x0)
    seen = [images for _, images in frechet.samples(flow, ends, key, 70, "")]
    full, rest = divmod(70, measure.BATCH_SIZE)
    assert [len(x) for x in seen] == [measure.BATCH_SIZE] * full + [rest]
    assert len(np.unique(np.concatenate(seen).round(6), axis=0)) == 70
    x0 = flow.noise(plan.key("test"), (len(seen[0]),))
    assert not np.allclose(bj.adjoint.end_points(flow, solver, x0), seen[0])
    assert all(np.array_equal(a, b) for a, (_, b) in zip(seen, frechet.samples(flow, ends, key, 70, ""), strict=True))


def said(*arguments):
    """What the launcher exits with."""
    with pytest.raises(SystemExit) as caught:
        fid.main(*arguments)
    return str(caught.value.code)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("inception", "", "weights"), "--reference: wanted a file for the FID"),
        (("inception", "none.npz", ""), "--inception: wanted a file for the FID"),
        (("inception", "none.npz", "weights"), "none.npz: no such file"),
        (("inception", None, "none.pth"), "none.pth: no such file"),
        (("fashion_classifier", "none.npz", ""), "wanted neither with --features=fashion_classifier"),
        (("fashion", "", ""), "wanted one of ['fashion_classifier'] or a *.safetensors file, got 'fashion'"),
        (("none.safetensors", "", ""), "no file none.safetensors"),
        (("fashion_classifier", "", ""), "the flow's images (4, 4, 1), got fashion_classifier, of images (28, 28, 1)"),
    ],
)
def test_what_is_missing_is_said_without_a_stack(config, reference, tmp_path, arguments, message):
    features, given, weights = arguments
    given = reference if given is None else given
    load = functools.partial(frechet.statistic_of, features, given, weights, "tensorflow")
    assert message in said(config, tmp_path / "run", load, 10)


def test_a_run_without_solvers_and_another_distance_than_that_of_the_features_are_refused(config, pixels, tmp_path):
    assert "wanted learned solvers, got none" in said(config, tmp_path / "run", pixels, 10)
    assert "no validations in " in said(config, tmp_path / "other", pixels, 10, "fid")
    assert "wanted 'rmse' or 'fid', which these features measure, got 'classifier_distance'" in said(
        config, tmp_path / "third", pixels, 10, "classifier_distance"
    )


@pytest.mark.filterwarnings("ignore::bespoke_jax.fid.TooFewSamplesWarning")  # 20, of 64 features
def test_the_shipped_solvers_of_a_flow_with_classes_need_no_files(tmp_path, capsys):
    config = fashion_fmot_class.get_config()
    config.solvers = dict(table=(6,))
    load = functools.partial(frechet.statistic_of, "fashion_classifier", "", "", "tensorflow")
    fid.main(config, tmp_path, load, 20)
    (row,) = rows_of(tmp_path / "classifier_distance.csv")
    assert list(row)[2:5] == ["classifier_distance", "num_samples", "features"] and "fid" not in str(row).lower()
    assert (
        row["solver"] == "table" and row["features"] == "fashion_classifier" and float(row["classifier_distance"]) > 0
    )
    assert float(row["of_wanted_class"]) > 0.6
    printed = capsys.readouterr().out
    assert "classifier distance" in printed and "FID" not in printed


def test_the_wanted_class_is_that_of_the_condition(config):
    assert frechet._wanted_classes(flows.load(config.flow)) is None
    assert frechet._wanted_classes(bj.models.load_flow("fashion_fmot_class")) is None
    assert frechet._wanted_classes(bj.models.load_flow("fashion_fmot_class", labels=3)) == 3
    flow = bj.guided(bj.models.load_flow("fashion_fmot_class", labels=[3, 0, 9]), 1.0)
    assert frechet._wanted_classes(flow).tolist() == [3, 0, 9]
