"""The launcher `experiments.ablate`: several fits of the same solvers in one run, and the table of them."""

import csv

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bespoke_jax as bj
from experiments import ablate, train
from experiments.configs import fashion_ablation
from experiments.learning import costs, learn, settings
from tests.small_run import small_config

pytestmark = pytest.mark.usefixtures("one_device")

RUINOUS = bj.Recipe(stages=(bj.Stage("endpoint", 3, optax.sgd(np.nan), batch_size=8),), choose_start=False)


def ablation_config():
    """One solver: time alone, and the same fit of all of it twice, by two names."""
    config = small_config()
    config.solvers = dict(rk1=(2,))
    whole = config.fit.to_dict()
    whole["stage1"]["num_iterations"] = 0
    with config.unlocked():
        del config.fit
        config.fits = {"one": whole, "same": whole, "time": whole | dict(learned="time")}
    return config


def read_rows(folder):
    with open(folder / "ablation.csv") as file:
        return {row["solver"]: row for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ablation")
    assert ablate.main(ablation_config(), folder) == 0
    return folder


def solver(folder, fit):
    return bj.load_solver(folder / "solvers" / f"rk1-bespoke-{fit}-n2.json")


@pytest.mark.slow
def test_a_row_for_each_fit_with_what_it_cost(folder):
    rows = read_rows(folder)
    assert set(rows) == {"rk1", "rk2", "rk1-bespoke-one", "rk1-bespoke-same", "rk1-bespoke-time"}
    for name, parameters in (("one", 7), ("time", 3)):
        row = rows[f"rk1-bespoke-{name}"]
        assert int(row["parameters"]) == parameters == solver(folder, name).num_parameters
        assert int(row["evaluations"]) == 3 * 8 * (3 * 2 + 2)  # 3 updates of 8 paths, 3 looks at 8
        assert float(row["seconds"]) > 0 and float(row["memory"]) > 0
        assert f"| rk1-bespoke-{name} | 2 | {float(row['rmse']):.4f} |" in (folder / "ablation.md").read_text()
        assert f"<th>rk1-bespoke-{name}</th>" in (folder / "report.html").read_text()
    assert rows["rk1"]["parameters"] == rows["rk1"]["seconds"] == ""


@pytest.mark.slow
def test_what_is_not_learned_is_that_of_the_base_solver(folder):
    knots, identity = solver(folder, "time").knots(), bj.init_theta("rk1", 2).knots()
    assert np.array_equal(knots.s, identity.s) and np.array_equal(knots.ds, identity.ds)
    assert not np.allclose(knots.dt, identity.dt, atol=1e-3)


@pytest.mark.slow
def test_fits_differ_in_nothing_but_their_sections(folder):
    assert np.array_equal(solver(folder, "one").raw, solver(folder, "same").raw)
    rows = read_rows(folder)
    assert rows["rk1-bespoke-one"]["rmse"] == rows["rk1-bespoke-same"]["rmse"] != rows["rk1-bespoke-time"]["rmse"]


@pytest.mark.slow
def test_started_again_it_learns_nothing_and_says_the_same(folder, monkeypatch):
    before = (folder / "ablation.csv").read_bytes()
    for module, name in ((bj, "fit"), (bj, "ground_truth"), (costs, "memory")):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("worked again"))
    assert ablate.main(ablation_config(), folder) == 0
    assert (folder / "ablation.csv").read_bytes() == before


@pytest.mark.slow
def test_a_fit_that_fails_leaves_the_others(tmp_path, monkeypatch):
    fit_on = learn.fit_on

    def fails(flow, theta, key, recipe, *args):
        return fit_on(flow, theta, key, RUINOUS if theta.learned == "time" else recipe, *args)

    monkeypatch.setattr(learn, "fit_on", fails)
    assert ablate.main(ablation_config(), tmp_path) == 1
    assert {"rk1-bespoke-one", "rk1-bespoke-same"} == {name for name in read_rows(tmp_path) if "bespoke" in name}
    assert "rk1-bespoke-time-n2 failed" in (tmp_path / "report.html").read_text()


@pytest.mark.slow
def test_memory_is_that_of_a_batch_of_a_gradient_and_of_one_evaluation_of_a_linearisation():
    flow = bj.Flow(lambda params, t, x: jnp.tanh(params @ x[..., None])[..., 0] + t, jnp.eye(64), (64,))
    paths = bj.ground_truth(flow, flow.noise(jax.random.key(0), (16,)))

    def memory(loss, optimizer, batch_size, num_steps=2):
        stage = bj.Stage(loss, 1, optimizer, batch_size, chunk_size=4)
        return costs.memory(flow, (stage,), bj.init_theta("rk1", num_steps), paths)

    adam, lm = optax.adam(1e-2), bj.LevenbergMarquardt()
    assert memory("endpoint", adam, 16) > 1.5 * memory("endpoint", adam, 4)
    assert memory("rmse_bound", adam, 8, 8) < 1.1 * memory("rmse_bound", adam, 8, 2)  # one step at a time
    assert memory("endpoint", lm, 16, 8) == memory("endpoint", lm, 4, 2)
    assert memory("local", lm, 8) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.fits.time.update(learned="times"), r"config\.fits\.time\.learned: wanted one of .* got 'times'"),
        (lambda c: c.fits.one.stage2.update(loss="mse"), r"config\.fits\.one\.stage2\.loss: wanted .* got 'mse'"),
        (lambda c: c.fits.update({"a/b": c.fits.one}), r"config\.fits: wanted names of letters, .* got 'a/b'"),
        (lambda c: setattr(c, "fits", {}), r"config\.fits: wanted a ConfigDict with one section like fit or more, got"),
        (
            lambda c: c.solvers.update(table=(2,)),
            r"config\.fits\.time\.learned: wanted 'both' for .* 'table', .* got 'time'",
        ),
        (lambda c: c.update(losses=1), r"config\.losses: no such field"),
    ],
)
def test_bad_configs_are_refused_before_any_work(tmp_path, change, message):
    config = ablation_config()
    with config.unlocked(), config.ignore_type():
        change(config)
    with pytest.raises(ValueError, match=message):
        ablate.prepare(config, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_shipped_config_has_every_loss_and_every_part():
    plans = settings.read_fits(fashion_ablation.get_config())
    assert {stage.name for plan in plans.values() for stage in plan.stages} == set(bj.losses.LOSSES) - {
        "sqrt_rmse"  # stands between rmse and endpoint, which are there
    }
    for name in ("rmse_bound-adam", "endpoint-lm"):
        for learned in ("both", "time", "scale"):
            plan = plans[name if learned == "both" else f"{name}-{learned}"]
            assert [job.learned for job in plan.jobs] == [learned]
            assert plan.stages == plans[name].stages and not plan.choose_start


def test_names_choose_fits_of_the_shipped_config():
    whole, few = (settings.read_fits(fashion_ablation.get_config(names)) for names in ("", "rmse-lm,endpoint-lm-time"))
    assert few == {name: whole[name] for name in ("rmse-lm", "endpoint-lm-time")}
    with pytest.raises(SystemExit, match="no fit named 'rmse-ml'; there are rmse_bound-adam, "):
        fashion_ablation.get_config("rmse-ml")


def test_a_budget_is_refused(tmp_path):
    config = ablation_config()
    config.fits["one"]["budget"] = 5000
    with pytest.raises(ValueError, match=r"config\.fits\.one\.budget: wanted 0, .* got 5000"):
        ablate.prepare(config, tmp_path / "new")


def test_train_learns_a_part_too(tmp_path):
    config = small_config()
    config.fit.learned = "scale"
    plan, _, run = train.prepare(config, tmp_path)
    run.close()
    assert {job.start.learned for job in plan.jobs} == {"scale"}
