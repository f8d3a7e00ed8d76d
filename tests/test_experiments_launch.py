"""What all launchers share: mistakes in one line, a folder that is released whatever happens, a status."""

import pytest

from experiments.run.launch import launch
from experiments.run.runs import open_run


@pytest.fixture
def prepare(tmp_path):
    return lambda: ("plan", open_run(tmp_path / "run", {}))


def is_free(tmp_path):
    open_run(tmp_path / "run", {}).close()  # refused while another run works in it
    return True


@pytest.mark.parametrize(("failed", "status"), [(None, 0), (0, 0), (1, 1), (3, 1)])
def test_the_status_says_whether_a_part_failed(prepare, tmp_path, failed, status):
    def work(plan, run):
        with pytest.raises(ValueError, match="another run works in it"):
            open_run(run.folder, {})
        assert plan == "plan"
        return failed

    assert launch(prepare, work) == status
    assert is_free(tmp_path)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("config.seed: wanted"), "config.seed: wanted"),
        (FileNotFoundError("no such weights"), "no such weights"),
        (
            PermissionError(13, "Permission denied", "weights.pt"),
            r"^weights\.pt: cannot be read \(Permission denied\)\.$",
        ),
    ],
)
def test_a_mistake_in_the_input_is_a_line(error, message):
    def prepare():
        raise error

    with pytest.raises(SystemExit, match=message):
        launch(prepare, lambda run: pytest.fail("worked"))


def test_an_error_of_the_work_keeps_its_stack_unless_the_launcher_knows_it(prepare, tmp_path):
    def work(plan, run):
        raise FloatingPointError("step 3: the loss is nan")

    with pytest.raises(FloatingPointError):
        launch(prepare, work)
    assert is_free(tmp_path)
    with pytest.raises(SystemExit, match=r"^step 3: the loss is nan$"):
        launch(prepare, work, ends=(FloatingPointError,))
    assert is_free(tmp_path)
