"""A run's folder with what is not a run's: other programs' files, damaged ones, files of other runs, litter of a kill."""

import json

import numpy as np
import pytest

import bespoke_jax as bj
from experiments.learning import costs, truth
from experiments.run import runs
from experiments.run.errors import ReadError, WriteError

STAMP = dict(seed=0, flow=dict(name="mixture", sizes=(4, 8)))


@pytest.fixture
def run(tmp_path):
    with runs.open_run(tmp_path / "run", STAMP) as run:
        yield run


class TestConfig:
    @pytest.mark.parametrize("content", ["", "{", "\xff", "[" * 100_000])
    def test_no_json(self, tmp_path, content):
        (tmp_path / "config.json").write_bytes(content.encode("latin-1"))
        with pytest.raises(
            ValueError, match=r"cannot be used \(config\.json: wanted JSON, got .*give another --workdir"
        ):
            runs.open_run(tmp_path, STAMP)
        assert (tmp_path / "config.json").read_bytes() == content.encode("latin-1")

    @pytest.mark.parametrize("content", ["[1]", "3", '"text"', "null", '{"written_by": 3}'])
    def test_no_object(self, tmp_path, content):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(
            ValueError, match=r"config\.json: wanted a JSON object with the config of a run, got another pro"
        ):
            runs.open_run(tmp_path, STAMP)

    def test_of_another_program_nothing_is_said_of_deleting_its_folder(self, tmp_path):
        (tmp_path / "config.json").write_text(json.dumps(dict(architectures=["UNet"], seed=0)))
        with pytest.raises(
            ValueError, match="of another launcher, version or program: the field architectures"
        ) as caught:
            runs.open_run(tmp_path, STAMP)
        assert "delete" not in str(caught.value) and "another --workdir" in str(caught.value)

    def test_what_no_file_can_hold(self, tmp_path):
        for value in (float("nan"), {1}, runs):
            with pytest.raises(ValueError, match="config: wanted finite numbers, text, None"):
                runs.open_run(tmp_path / "run", dict(seed=value))
        assert not (tmp_path / "run").exists()

    def test_numbers_of_numpy_are_numbers(self, tmp_path):
        runs.open_run(tmp_path, dict(seed=np.int64(3), rtol=np.float32(0.5))).close()
        runs.open_run(tmp_path, dict(seed=3, rtol=0.5)).close()

    def test_another_programs_lock_is_kept(self, tmp_path):
        (tmp_path / "lock").write_text("of another program")
        with pytest.raises(ValueError, match="its file named lock is another program's"):
            runs.open_run(tmp_path, STAMP)
        assert (tmp_path / "lock").read_text() == "of another program"

    @pytest.mark.parametrize("workdir", ["", None, 3])
    def test_no_name(self, workdir):
        with pytest.raises(ValueError, match="workdir: wanted the name of a folder, got"):
            runs.open_run(workdir, STAMP)


def test_litter_of_a_kill_is_swept_and_nothing_else(tmp_path):
    runs.open_run(tmp_path, STAMP).close()
    for folder in ("paths", "solvers"):
        (tmp_path / folder).mkdir()
    litter = [".part.results.csv", "paths/.part.test.npz", "solvers/.part.0123456789abcdef", "solvers/rk2.json.part"]
    mine = ["notes.part", "solvers/mine.json", "paths/notes.txt"]
    for name in litter + mine:
        (tmp_path / name).touch()
    runs.open_run(tmp_path, STAMP).close()
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"config.json", "lock", *mine}


class TestSolvers:
    def keep(self, run, info, steps=2, flow=None):
        return run.keep_solver("rk1-bespoke-n2", bj.init_theta("rk1", steps), info, flow)

    RECORD = dict(rmse=0.5, psnr=12.0, iteration=0)  # noqa: RUF012
    INFO = dict(cost=7, history=[RECORD], validation=RECORD)  # noqa: RUF012

    def test_what_a_fit_has_kept_comes_back(self, run):
        self.keep(run, self.INFO)
        theta, info = run.finished("rk1-bespoke-n2", 2)
        np.testing.assert_array_equal(theta.raw, bj.init_theta("rk1", 2).raw)
        assert info == self.INFO

    @pytest.mark.parametrize(
        "info",
        [{}, INFO | dict(history=None), INFO | dict(history=[]), INFO | dict(history=[3]), INFO | dict(validation=0)],
    )
    def test_what_no_fit_has_kept_is_learned_again(self, run, capsys, info):
        self.keep(run, info)
        assert run.finished("rk1-bespoke-n2", 2) is None
        assert (
            "rk1-bespoke-n2.json: cannot be read (no fit of this run wrote it); learned again"
            in capsys.readouterr().err
        )

    def test_a_solver_of_other_steps_under_this_name(self, run, capsys):
        self.keep(run, self.INFO, steps=3)
        assert run.finished("rk1-bespoke-n2", 2) is None
        assert "no fit of this run wrote it" in capsys.readouterr().err

    def test_one_that_cannot_be_read_now_is_not_learned_again(self, run, monkeypatch):
        self.keep(run, self.INFO)

        def fails(path):
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr(bj, "load_solver", fails)
        with pytest.raises(
            ReadError, match=r"n2\.json: cannot be read now \(Permission denied\)\. Nothing was changed"
        ):
            run.finished("rk1-bespoke-n2", 2)

    def test_validations_in_the_order_of_their_iterations(self, run):
        flow = bj.analytic.gaussian(np.zeros(2), 0.5)
        self.keep(run, self.INFO, flow=flow)
        for steps in (10, 9, 2):
            run.keep_solver(f"{steps}", bj.init_theta("rk1", steps), {}, folder="validations/rk1-bespoke-n2")
        for name in ("solvers/._rk1.json", "validations/rk1-bespoke-n2/._2.json"):  # macOS's
            (run.folder / name).write_text("")
        (found,) = run.validations(flow).values()
        assert [(iteration, solver.num_steps) for iteration, solver in found] == [(2, 2), (9, 9), (10, 10)]
        (run.folder / "validations" / "rk1-bespoke-n2" / "best.json").write_text("{}")
        with pytest.raises(ValueError, match=r"best\.json: wanted a name of the form <iteration>\.json"):
            run.validations(flow)


X0 = np.random.default_rng(0).standard_normal((5, 2)).astype(np.float32)


class TestPaths:
    ENDS = dict(x0=X0, x1=X0 + 1, evaluations=np.full(5, 9), curves=np.zeros((65, 4, 2), np.float32))  # noqa: RUF012
    WHOLE = dict(  # noqa: RUF012
        times=np.zeros((5, 3)),
        states=np.stack([X0, X0, X0], 1),
        velocities=np.zeros((5, 3, 2)),
        middles=np.zeros((5, 2, 2)),
        evaluations=np.full(5, 9),
    )

    def test_what_is_right_passes(self):
        truth._check_ends(self.ENDS, X0)
        ends = {name: self.WHOLE[name] for name in ("times", "states", "evaluations")}
        for ends_only in (False, True):
            truth._check_paths(self.WHOLE, X0, ends_only)
        truth._check_paths(ends, X0, ends_only=True)
        with pytest.raises(ValueError, match="wanted the arrays evaluations, middles, states, times, velocities, got"):
            truth._check_paths(ends, X0, ends_only=False)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (dict(x1=X0[:4]), r"x1: wanted an array of shape \(5, 2\), got \(4, 2\)"),
            (dict(curves=np.zeros((65, 2))), r"curves: wanted an array of shape \(65, 4, 2\)"),
            (dict(x1=X0 * np.nan), "x1: wanted finite numbers"),
            (dict(x0=X0[::-1]), "wanted the noises of this run's seed, got others"),
            (dict(x2=X0), "wanted the arrays x0, x1, evaluations, curves, got .*x2"),
        ],
    )
    def test_ends_of_another_run(self, change, message):
        with pytest.raises(ValueError, match=message):
            truth._check_ends(self.ENDS | change, X0)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (dict(times=np.zeros(3)), "times: wanted an array of shape"),
            (dict(times=np.zeros(())), "times: wanted an array of shape"),
            (dict(middles=np.zeros((5, 3, 2))), r"middles: wanted an array of shape \(5, 2, 2\)"),
            (dict(states=np.zeros((5, 3, 2))), "wanted the noises of this run's seed"),
        ],
    )
    def test_paths_of_another_run(self, change, message):
        with pytest.raises(ValueError, match=message):
            truth._check_paths(self.WHOLE | change, X0, ends_only=False)

    def check(self, found):
        truth._check_ends(found, X0)

    @pytest.mark.parametrize("damage", ["other shapes", "another program's", "an array alone", "a flipped bit", "text"])
    def test_what_is_damaged_is_computed_again(self, run, capsys, damage):
        path = run.folder / "paths" / "test.npz"
        found = run.arrays("test", lambda: self.ENDS, self.check)
        np.testing.assert_array_equal(found["x1"], X0 + 1)
        if damage == "other shapes":
            np.savez(path, **self.ENDS | dict(x1=X0[:4]))
        elif damage == "another program's":
            np.savez(path, mu=np.zeros(3))
        elif damage == "an array alone":
            with open(path, "wb") as file:
                np.save(file, X0)
        elif damage == "text":
            path.write_text("not an npz")
        else:
            content = bytearray(path.read_bytes())
            content[content.index((X0 + 1).tobytes())] ^= 1
            path.write_bytes(content)
        found = run.arrays("test", lambda: self.ENDS, self.check)
        assert "test.npz: cannot be read (" in capsys.readouterr().err
        for name, wanted in self.ENDS.items():
            np.testing.assert_array_equal(found[name], wanted)
        found = run.arrays("test", lambda: pytest.fail("computed again"), self.check)
        np.testing.assert_array_equal(found["x1"], X0 + 1)

    @pytest.mark.parametrize(
        "error", [PermissionError(13, "Permission denied"), OSError(24, "Too many open files"), MemoryError()]
    )
    def test_what_cannot_be_read_now_is_not(self, run, monkeypatch, error):
        run.arrays("test", lambda: self.ENDS)
        before = (run.folder / "paths" / "test.npz").read_bytes()

        def fails(*_, **__):
            raise error

        monkeypatch.setattr(np, "load", fails)
        with pytest.raises(ReadError, match=r"test\.npz: cannot be read now"):
            run.arrays("test", lambda: pytest.fail("computed again"))
        assert (run.folder / "paths" / "test.npz").read_bytes() == before


@pytest.mark.parametrize(
    "content",
    ["", "[]", "3", '{"a": 3}', '{"a": {"seconds": "x", "memory": 1.0}}', '{"a": {"seconds": 1.0}}', "[" * 100_000],
)
def test_costs_that_are_damaged_are_not_known(run, content):
    (run.folder / "costs.json").write_text(content)
    assert costs.read_costs(run) == {}
    (run.folder / "costs.json").write_text('{"a": 3, "b": {"seconds": null, "memory": 2.0}}')
    assert costs.read_costs(run) == {"b": dict(seconds=None, memory=2.0)}


def test_scalars_that_cannot_be_written_are_said(run):
    (run.folder / "tensorboard").touch()
    with run.scalars("fit", 0) as scalars, pytest.raises(WriteError, match="tensorboard/fit: cannot be written"):
        scalars.add(0, dict(loss=1.0))


def test_a_file_where_a_folder_has_to_be(run):
    (run.folder / "figures").touch()
    with pytest.raises(WriteError, match="cannot be written"):
        run.write_figure("a", None)
