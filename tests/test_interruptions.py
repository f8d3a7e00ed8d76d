"""A run loses no work: kills at every moment, SIGTERM, damaged files, a full disk, two runs in one folder."""

import gc
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import bespoke_jax as bj
from bespoke_jax.files import atomic
from experiments import train
from experiments.run import runs, stopping
from experiments.run.errors import WriteError
from tests.small_run import small_config

ROOT = pathlib.Path(__file__).parents[1]

pytestmark = pytest.mark.usefixtures("one_device")


@pytest.fixture
def broken_orbax(caplog):
    """What Orbax's threads leave behind when one of them fails goes with the test, and so do its warnings."""
    yield
    caplog.clear()
    gc.collect()


def ignores_broken_orbax(test):
    for warning in ("PytestUnhandledThreadExceptionWarning", "PytestUnraisableExceptionWarning"):
        test = pytest.mark.filterwarnings(f"ignore::pytest.{warning}")(test)
    return pytest.mark.usefixtures("broken_orbax")(test)


@pytest.fixture
def config():
    return small_config()


@pytest.fixture
def run(tmp_path, whole_run):
    """The folder of a run that is through, to be damaged."""
    return pathlib.Path(shutil.copytree(whole_run, tmp_path / "run"))


def assert_same_results(folder, wanted):
    """Solvers, how their fits went, and what was measured: the same to the last byte."""
    names = sorted(path.relative_to(wanted) for path in (*wanted.glob("solvers/*.json"), *wanted.glob("*.csv")))
    assert len(names) >= 4
    for name in names:
        assert (folder / name).read_bytes() == (wanted / name).read_bytes(), name


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


class FileOperations:
    """Python's own view of the files under a folder: after `left` operations that change them, none works any more.

    Not even those of a `finally`: a process that was killed cleans nothing up.
    """

    def __init__(self):
        self.folder, self.left = None, 0
        sys.addaudithook(self._look)  # stays as long as the interpreter does

    def _look(self, event, args):
        if self.folder is None or event not in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir"):
            return
        if event == "open" and not (isinstance(args[1], str) and set(args[1]) & set("wxa+")):
            return
        if not isinstance(args[0], int) and str(self.folder) in os.fsdecode(args[0]):
            self.left -= 1
            if self.left < 0:
                raise Killed(event)


@pytest.fixture(scope="module")
def operations():
    return FileOperations()


@pytest.mark.usefixtures("no_report")
@ignores_broken_orbax
def test_killed_at_any_file_operation_it_ends_with_the_same_bits(tmp_path, whole_run, config, operations, capsys):
    draw, folder = random.Random(0), tmp_path / "run"
    for _ in range(100):
        operations.folder, operations.left = folder, draw.randint(1, 80)
        try:
            assert train.main(config, folder) == 0
            break
        except Killed:
            continue
        finally:
            operations.folder = None
    assert_same_results(folder, whole_run)
    assert "cannot be read" not in capsys.readouterr().err  # a kill damages nothing


@pytest.mark.usefixtures("no_report")
class TestSIGTERM:
    @pytest.mark.parametrize("after", [2, pytest.param(6, marks=pytest.mark.slow)])
    def test_stops_after_a_checkpoint_and_says_resume(self, tmp_path, whole_run, config, monkeypatch, after):
        saved, save = [], runs.Checkpoints.save

        def save_while_asked(self, iteration, state):
            saved.append(iteration)
            if len(saved) == after:
                os.kill(os.getpid(), signal.SIGTERM)
            save(self, iteration, state)

        with monkeypatch.context() as patch, stopping.listening():
            patch.setattr(runs.Checkpoints, "save", save_while_asked)
            with pytest.raises(SystemExit) as caught:
                train.main(config, tmp_path)
        assert caught.value.code == 75 and len(saved) == after
        (name,) = (tmp_path / "checkpoints").iterdir()
        assert (name / str(saved[-1])).is_dir()  # the update that it came in is kept
        with stopping.listening():  # it was heeded once
            assert train.main(config, tmp_path) == 0
        assert_same_results(tmp_path, whole_run)

    def test_stops_between_sets_of_paths(self, tmp_path, config, monkeypatch):
        solve = bj.ground_truth

        def asked(*args, **options):
            os.kill(os.getpid(), signal.SIGTERM)
            return solve(*args, **options)

        monkeypatch.setattr(bj, "ground_truth", asked)
        with stopping.listening(), pytest.raises(SystemExit, match="75"):
            train.main(config, tmp_path)
        assert [path.name for path in (tmp_path / "paths").iterdir()] == ["train.npz"]

    def test_the_handler_of_before_is_back(self):
        before = signal.getsignal(signal.SIGTERM)
        with stopping.listening():
            assert signal.getsignal(signal.SIGTERM) is not before
        assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.usefixtures("no_report")
class TestDamagedFiles:
    @pytest.mark.parametrize("kept", [0, 100, 0.5, 0.999])
    @pytest.mark.parametrize("name", ["train", pytest.param("test", marks=pytest.mark.slow)])
    def test_paths_are_solved_again(self, run, whole_run, config, capsys, name, kept):
        truncate(run / "paths" / f"{name}.npz", kept)
        assert train.main(config, run) == 0
        assert f"{name}.npz: cannot be read" in capsys.readouterr().err
        for there, here in zip(*(np.load(f / "paths" / f"{name}.npz").values() for f in (whole_run, run)), strict=True):
            np.testing.assert_array_equal(there, here)
        assert_same_results(run, whole_run)

    @pytest.mark.parametrize("kept", [0, 0.5, 0.99, "no info"])
    def test_a_solver_is_learned_again(self, run, whole_run, config, capsys, kept):
        path = run / "solvers" / "rk2-bespoke-n2.json"
        if kept == "no info":
            path.write_text(json.dumps(json.loads(path.read_text()) | dict(info={})))
        else:
            truncate(path, kept)
        assert train.main(config, run) == 0
        assert "rk2-bespoke-n2.json: cannot be read" in capsys.readouterr().err
        assert_same_results(run, whole_run)

    @ignores_broken_orbax
    @pytest.mark.parametrize(
        "file", ["manifest.ocdbt", *(pytest.param(name, marks=pytest.mark.slow) for name in ("_METADATA", "d"))]
    )
    @pytest.mark.parametrize("how_many", [pytest.param(1, marks=pytest.mark.slow), 2])
    def test_the_checkpoint_before_is_gone_on_from(self, run, whole_run, config, monkeypatch, capsys, file, how_many):
        (run / "solvers" / "rk2-bespoke-n2.json").unlink()
        checkpoints, saved, save = run / "checkpoints" / "rk2-bespoke-n2", [], runs.Checkpoints.save
        for iteration in ("5", "4")[:how_many]:
            path = checkpoints / iteration / "default" / file
            for part in path.iterdir() if path.is_dir() else (path,):
                truncate(part, 0.5)

        def count(self, iteration, state):
            save(self, iteration, state)
            saved.append(iteration)

        monkeypatch.setattr(runs.Checkpoints, "save", count)
        assert train.main(config, run) == 0
        assert capsys.readouterr().err.count("continuing from the one before") == how_many
        assert saved == ([5], [0, 1, 2, 3, 4, 5])[how_many - 1]
        aside = ["4.unreadable", "5.unreadable"][2 - how_many :]
        assert sorted(path.name for path in checkpoints.iterdir()) == sorted(["4", "5", *aside])
        assert_same_results(run, whole_run)


def truncate(path, kept):
    """Cut a file to a share of its bytes, or to so many."""
    os.truncate(path, kept if isinstance(kept, int) else int(kept * path.stat().st_size))


@pytest.mark.usefixtures("no_report")
class TestFullDisk:
    @pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's device that is always full")
    def test_a_solver_is_learned_once_there_is_room(self, run, whole_run, config, monkeypatch):
        target = run / "solvers" / "rk1-bespoke-n2.json"
        target.unlink()
        with monkeypatch.context() as patch:
            patch.setattr(atomic, "open", lambda *_: open("/dev/full", "wb"), raising=False)
            with pytest.raises(WriteError, match=rf"{target}: cannot be written \(No space left on device\)"):
                train.main(config, run)
        assert not target.exists()
        assert train.main(config, run) == 0
        assert_same_results(run, whole_run)

    @pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's device that is always full")
    @pytest.mark.parametrize("name", ["paths/.part.validation.npz", ".part.results.csv"])
    def test_is_said_and_survived(self, run, whole_run, config, name):
        path = run / name
        target = path.with_name(path.name.removeprefix(".part."))
        target.unlink()
        path.symlink_to("/dev/full")
        with pytest.raises(WriteError, match=rf"{target}: cannot be written \(No space left on device\)"):
            train.main(config, run)
        assert not target.exists()
        path.unlink(missing_ok=True)
        assert train.main(config, run) == 0
        assert_same_results(run, whole_run)

    @pytest.mark.parametrize("name", ["checkpoints", "tensorboard"])
    def test_nor_do_libraries_raise_errors_of_their_own(self, run, whole_run, config, name):
        (run / "solvers" / "rk1-bespoke-n2.json").unlink()
        for folder in ("checkpoints", "tensorboard"):
            shutil.rmtree(run / folder)
        (run / name).touch()  # a file where a folder has to be: nothing can be written below
        with pytest.raises(WriteError, match=rf"{run}/{name}/rk1-bespoke-n2.*: cannot be written"):
            train.main(config, run)
        (run / name).unlink()
        assert train.main(config, run) == 0
        assert_same_results(run, whole_run)


class TestLock:
    def test_a_second_run_is_refused_until_the_first_is_dead(self, tmp_path):
        program = "import sys, time; from experiments.run.runs import open_run; r = open_run(sys.argv[1], {})"
        program += "; print(); time.sleep(99)"
        command = [sys.executable, "-c", program, str(tmp_path)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as other:
            try:
                other.stdout.readline()
                before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
                with pytest.raises(
                    ValueError, match=rf"another run works in it, process {other.pid} on .*another --work"
                ):
                    runs.open_run(tmp_path, {})
                assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
            finally:
                other.kill()
        runs.open_run(tmp_path, {})

    def test_a_run_lets_go_at_its_end(self, tmp_path):
        with runs.open_run(tmp_path, {}):
            with pytest.raises(ValueError, match=rf"process {os.getpid()} on "):
                runs.open_run(tmp_path, {})
        with runs.open_run(tmp_path, {}) as run:
            run.close()
            runs.open_run(tmp_path, {})


@pytest.mark.slow
def test_kill_9_at_random_moments(tmp_path):
    """Real processes, the whole tiny config. Programs once compiled are kept: compiling would be most of the time."""
    environment = os.environ | dict(
        JAX_COMPILATION_CACHE_DIR=str(tmp_path / "programs"),
        JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
        JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES="-1",
    )
    draw = random.Random(0)

    def start(folder, signal_after=None, sent=signal.SIGKILL):
        command = [
            sys.executable,
            "-m",
            "experiments.train",
            "--config=experiments/configs/tiny.py",
            f"--workdir={folder}",
        ]
        with open(tmp_path / "log", "w") as log:
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)
            try:
                return process.wait(signal_after)
            except subprocess.TimeoutExpired:
                process.send_signal(sent)
                return process.wait()

    whole, disturbed = tmp_path / "whole", tmp_path / "disturbed"
    assert start(whole) == 0
    begin = time.monotonic()
    assert start(tmp_path / "again") == 0  # compiles nothing: so long takes what is left to disturb
    seconds = time.monotonic() - begin
    assert_same_results(tmp_path / "again", whole)
    codes = []
    for number in range(12):
        # Early kills make no headway, so the later ones come later.
        sent = signal.SIGTERM if number % 4 == 3 else signal.SIGKILL
        codes.append(start(disturbed, draw.uniform(0.1, 0.5) * seconds, sent))
        if codes[-1] == 0:
            break
    else:
        codes.append(start(disturbed))
    assert codes[-1] == 0 and set(codes[:-1]) <= {-signal.SIGKILL, stopping.RESUME, -signal.SIGTERM}
    assert codes.count(-signal.SIGKILL) >= 3
    assert_same_results(disturbed, whole)
