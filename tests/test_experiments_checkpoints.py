"""Checkpoints: the newest whole state is what comes back, nothing is lost to a damaged one, a hiccup or another version."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

from experiments.run import checkpoints, runs
from experiments.run.checkpoints import Checkpoints
from experiments.run.errors import ReadError, WriteError

ROOT = pathlib.Path(__file__).parents[1]
STATE = dict(a=np.arange(3, dtype=np.float32), b=(np.zeros((2, 2), np.float32), np.asarray(7, np.int32)))


def state_of(iteration):
    return dict(a=STATE["a"] + iteration, b=(STATE["b"][0] - iteration, np.asarray(iteration, np.int32)))


def assert_is_state_of(found, iteration):
    wanted = state_of(iteration)
    np.testing.assert_array_equal(found["a"], wanted["a"])
    for here, there in zip(found["b"], wanted["b"], strict=True):
        np.testing.assert_array_equal(here, there)
        assert here.dtype == there.dtype


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def folder(tmp_path):
    """The states of 1 and 2."""
    with Checkpoints(tmp_path / "fit") as saved:
        for iteration in (0, 1, 2):
            saved.save(iteration, state_of(iteration))
    assert names(tmp_path / "fit") == ["1", "2"]
    return tmp_path / "fit"


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def flip(path):
    """Another bit in the middle of a file."""
    changed = bytearray(path.read_bytes())
    changed[len(changed) // 2] ^= 4
    path.write_bytes(changed)


def files_of(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


DAMAGE = {
    "an empty folder": lambda newest: empty(newest),
    "no default": lambda newest: shutil.rmtree(newest / "default"),
    "default emptied": lambda newest: empty(newest / "default"),
    "no record": lambda newest: (newest / "record.json").unlink(),
    "a record of another program": lambda newest: (newest / "record.json").write_text("[1]"),
    "all truncated to nothing": lambda newest: [path.write_bytes(b"") for path in files_of(newest)],
    "half of each file": lambda newest: [os.truncate(path, path.stat().st_size // 2) for path in files_of(newest)],
    "a bit of each file": lambda newest: [flip(path) for path in files_of(newest / "default") if path.stat().st_size],
    "a file in its place": lambda newest: (shutil.rmtree(newest), newest.write_text("2")),
}


class TestDamage:
    @pytest.mark.parametrize("damage", DAMAGE)
    def test_the_one_before_is_gone_on_from_and_the_damaged_one_set_aside(self, folder, capsys, damage):
        DAMAGE[damage](folder / "2")
        damaged = content(folder / "2")
        with Checkpoints(folder) as saved:
            assert_is_state_of(saved.restore(STATE), 1)
            assert names(folder) == ["1", "2.unreadable"] and content(folder / "2.unreadable") == damaged
            saved.save(2, state_of(2))
            saved.save(3, state_of(3))
        said = capsys.readouterr().err
        assert said.startswith(f"{folder / '2'}: cannot be read (") and "is now 2.unreadable" in said
        assert said.count("\n") == 1
        with Checkpoints(folder) as saved:
            assert_is_state_of(saved.restore(STATE), 3)
        assert names(folder) == ["2", "2.unreadable", "3"]

    def test_every_single_bit_counts(self, folder):
        """One file at a time: Orbax itself does not look at all of them."""
        for path in files_of(folder / "2" / "default"):
            if not path.stat().st_size:
                continue
            before = path.read_bytes()
            flip(path)
            assert checkpoints._damage(folder / "2") == f"{path.relative_to(folder / '2')}: not what was written"
            path.write_bytes(before)
        assert checkpoints._damage(folder / "2") == ""

    @pytest.mark.parametrize("make", [lambda path: path.mkdir(), lambda path: path.write_text("")])
    def test_garbage_that_looks_newest_is_not(self, folder, make):
        make(folder / "99")
        with Checkpoints(folder) as saved:
            assert_is_state_of(saved.restore(STATE), 2)
            saved.save(3, state_of(3))
        with Checkpoints(folder) as saved:
            assert_is_state_of(saved.restore(STATE), 3)
        assert names(folder) == ["2", "3", "99.unreadable"]

    def test_nor_does_it_count_before_anything_was_restored(self, folder):
        (folder / "99").mkdir()
        with Checkpoints(folder) as saved:
            saved.save(3, state_of(3))
            assert names(folder) == ["2", "3", "99"]
            assert_is_state_of(saved.restore(STATE), 3)

    def test_foreign_names_are_left_alone(self, folder):
        (folder / "notes.txt").write_text("mine")
        (folder / "007").mkdir()
        (folder / "2.orbax-checkpoint-tmp").mkdir()
        with Checkpoints(folder) as saved:
            assert_is_state_of(saved.restore(STATE), 2)
        assert names(folder) == ["007", "1", "2", "2.orbax-checkpoint-tmp", "notes.txt"]

    def test_damaged_twice_it_has_two_names(self, folder):
        for _ in range(2):
            empty(folder / "2")
            with Checkpoints(folder) as saved:
                assert_is_state_of(saved.restore(STATE), 1)
                saved.save(2, state_of(2))
        assert names(folder) == ["1", "2", "2.unreadable", "2.unreadable1"]

    def test_all_damaged_there_is_none_and_all_are_kept(self, folder):
        for iteration in "12":
            empty(folder / iteration)
        with Checkpoints(folder) as saved:
            assert saved.restore(STATE) is None
            saved.save(0, state_of(0))
            assert_is_state_of(saved.restore(STATE), 0)
        assert names(folder) == ["0", "1.unreadable", "2.unreadable"]

    def test_what_a_kill_left_half_written_is_swept(self, folder):
        (folder / ".part.3" / "default").mkdir(parents=True)
        with Checkpoints(folder) as saved:
            assert_is_state_of(saved.restore(STATE), 2)
        assert names(folder) == ["1", "2"]


FEW_DESCRIPTORS = """
import os, pathlib, resource, sys
from experiments.run.checkpoints import Checkpoints
from experiments.run.errors import ReadError
from tests.test_experiments_checkpoints import STATE
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
with Checkpoints(pathlib.Path(sys.argv[1])) as saved:
    saved.restore(STATE)  # what it opens for good is open
    lowest = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest)
    for left in [0, 1, 2, 3, 4, 6, 8, 100]:
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + left, hard))
        try:
            said = str(saved.restore(STATE)["a"].tolist())
        except ReadError as error:
            said = str(error)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        print(said, flush=True)
"""


class TestHiccup:
    """What passes, or is for the user to mend, changes nothing; then the newest state comes back."""

    def assert_stops(self, folder, message, act=lambda: None):
        before = content(folder)
        with Checkpoints(folder) as saved:
            act()
            with pytest.raises(ReadError, match=message) as caught:
                saved.restore(STATE)
        assert "\n" not in str(caught.value) and "othing was changed" in str(caught.value)
        assert content(folder) == before

    @pytest.mark.parametrize("number", [13, 5, 116, 24], ids=["EACCES", "EIO", "ESTALE", "EMFILE"])
    def test_a_file_that_cannot_be_opened(self, folder, monkeypatch, number):
        def fails(path, *arguments, **options):
            raise OSError(number, os.strerror(number), str(path))

        with monkeypatch.context() as patch:
            patch.setattr(checkpoints, "open", fails, raising=False)
            self.assert_stops(folder, rf"{folder / '2'}: cannot be read now \({os.strerror(number)}\)")
        with Checkpoints(folder) as saved:
            assert_is_state_of(saved.restore(STATE), 2)

    @pytest.mark.slow
    def test_few_file_descriptors_are_left(self, folder):
        """In a process of its own: Orbax leaves threads and coroutines behind."""
        before = content(folder)
        done = subprocess.run([sys.executable, "-c", FEW_DESCRIPTORS, folder], cwd=ROOT, capture_output=True, text=True)
        lines = done.stdout.splitlines()
        assert len(lines) == 8, done.stderr
        assert "Too many open files" in lines[0] and lines[-1] == "[2.0, 3.0, 4.0]"
        assert all("Too many open files" in line or "cannot be read now" in line or line == lines[-1] for line in lines)
        assert content(folder) == before
        with Checkpoints(folder) as saved:
            assert_is_state_of(saved.restore(STATE), 2)

    @pytest.mark.parametrize("error", [MemoryError(), ValueError("RESOURCE_EXHAUSTED: no memory\nmore of it")])
    def test_whatever_orbax_says_of_a_whole_checkpoint(self, folder, monkeypatch, error):
        def fails(*_, **__):
            raise error

        def act():
            monkeypatch.setattr(checkpoints.ocp.Checkpointer, "restore", fails)

        self.assert_stops(
            folder, r"cannot be read now \((MemoryError|RESOURCE_EXHAUSTED: no memory)\)\. Its files are", act
        )

    def test_a_state_that_cannot_be_written_leaves_those_before(self, folder, monkeypatch):
        def full(*_):
            raise OSError(28, "No space left on device")

        with Checkpoints(folder) as saved, monkeypatch.context() as patch:
            patch.setattr(checkpoints.os, "replace", full)
            with pytest.raises(WriteError, match=r"fit/3: cannot be written \(No space left on device\)"):
                saved.save(3, state_of(3))
        with Checkpoints(folder) as saved:
            assert_is_state_of(saved.restore(STATE), 2)
        assert names(folder) == ["1", "2"]


class TestVersions:
    @pytest.mark.parametrize(
        ("target", "message"),
        [
            (STATE | dict(c=np.zeros(2)), r"\['c'\] is not there, here it is float64\[2\]"),
            (dict(a=STATE["a"]), r"\['b'\]\[0\] is float32\[2, 2\], here it is not there"),
            (STATE | dict(a=np.zeros(4, np.float32)), r"\['a'\] is float32\[3\], here it is float32\[4\]"),
            (STATE | dict(a=np.zeros(3, np.float16)), r"\['a'\] is float32\[3\], here it is float16\[3\]"),
        ],
    )
    def test_a_state_of_another_form_is_not_damaged(self, folder, monkeypatch, target, message):
        before = content(folder)
        monkeypatch.setattr(checkpoints, "version", lambda: "9.9")
        with Checkpoints(folder) as saved, pytest.raises(ReadError, match=message) as caught:
            saved.restore(target)
        said = str(caught.value)
        assert "version 9.9, got one of version 0." in said and "--workdir" in said and "\n" not in said
        assert content(folder) == before

    def earlier(self, folder):
        """As Orbax's CheckpointManager left it, before there were records."""
        shutil.rmtree(folder)
        with checkpoints.ocp.CheckpointManager(folder) as manager:
            for iteration in (1, 2):
                manager.save(iteration, args=checkpoints.ocp.args.StandardSave(state_of(iteration)))
        assert (folder / "2" / "default").is_dir() and not (folder / "2" / "record.json").exists()

    def test_one_without_a_record_is_gone_on_from(self, folder):
        self.earlier(folder)
        with Checkpoints(folder) as saved:
            assert_is_state_of(saved.restore(STATE), 2)
            saved.save(3, state_of(3))
            assert_is_state_of(saved.restore(STATE), 3)
        assert names(folder) == ["2", "3"]

    def test_of_one_without_a_record_damage_cannot_be_told_so_nothing_is_touched(self, folder):
        self.earlier(folder)
        before = content(folder)
        with Checkpoints(folder) as saved, pytest.raises(ReadError, match=r"An earlier version wrote it.*move it away"):
            saved.restore(STATE | dict(a=np.zeros(4, np.float32)))
        assert content(folder) == before
        empty(folder / "2" / "default")  # of what was never finished it can
        with Checkpoints(folder) as saved:
            assert_is_state_of(saved.restore(STATE), 1)

    def test_the_run_keeps_who_began_it(self, tmp_path):
        runs.open_run(tmp_path, dict(seed=0)).close()
        kept = json.loads((tmp_path / "config.json").read_text())
        assert kept == dict(seed=0, written_by=dict(version=checkpoints.version(), state=checkpoints.STATE))
        runs.open_run(tmp_path, dict(seed=0)).close()

    def test_a_run_of_states_of_another_form_is_refused(self, tmp_path):
        path = tmp_path / "config.json"
        path.write_text(json.dumps(dict(seed=0, written_by=dict(version="0.0.7", state=0))))
        here = rf"this is version \d.*form {checkpoints.STATE}\. Give another --work"
        with pytest.raises(ValueError, match=rf"version 0\.0\.7, .*form 0; {here}"):
            runs.open_run(tmp_path, dict(seed=0))
        path.write_text(json.dumps(dict(seed=0)))  # before versions were kept
        with pytest.raises(ValueError, match=rf"version unknown, .*form 1; {here}"):
            runs.open_run(tmp_path, dict(seed=0))
        other_code = dict(version="0.0.8", state=checkpoints.STATE)
        path.write_text(json.dumps(dict(seed=0, written_by=other_code)))
        runs.open_run(tmp_path, dict(seed=0)).close()
