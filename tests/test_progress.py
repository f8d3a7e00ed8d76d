"""The progress bar of a fit: what it shows, and that it closes whatever happens."""

import dataclasses
import re
import sys

import jax
import pytest

import bespoke_jax as bj

FLOW = bj.analytic.gaussian([1.0, -1.0], 0.3)
STAGES = (
    bj.Stage("endpoint", 2, batch_size=8, validate_every=1),
    bj.Stage("endpoint", 3, batch_size=8, validate_every=1),
)
RECIPE = bj.Recipe(stages=STAGES, num_paths=8, num_validation=8, choose_start=False)


def fit(callback, **options):
    return bj.fit(FLOW, bj.init_theta("rk1", 2), jax.random.key(0), RECIPE, callback=callback, **options)


@pytest.fixture(scope="module")
def result():
    return fit(None)


def test_the_bar_shows_stages_and_the_held_out_figure(capsys, result):
    bar = bj.progress_bar(label="mine")
    found = fit(bar)
    shown = capsys.readouterr().err
    last = shown.rstrip().splitlines()[-1].split("\r")[-1]
    assert "mine: 100%" in last and "5/5" in last and f"PSNR {found.history[-1]['psnr']:.2f} dB, best" in last
    assert "stage 1 of 2, endpoint, 2 of 2" in shown and "stage 2 of 2, endpoint, 3 of 3" in shown
    assert "solving 8 true paths to fit to" in shown and "measuring the accuracy" in shown
    assert bar._bar is None
    assert found.history[-1]["rmse"] == result.history[-1]["rmse"]


def test_before_the_first_iteration_it_says_what_is_going_on():
    said = []

    class Mine:  # a callback that a user wrote after `ProgressBar`
        def begin(self, solver, stages, done=0):
            said.append("begin")

        def say(self, text):
            said.append(text)

        def end(self):
            said.append("end")

        def __call__(self, state, record):
            said.append(f"{record['iteration']}")

    recipe = dataclasses.replace(RECIPE, choose_start=True)
    bj.fit(FLOW, bj.init_theta("rk1", 2), jax.random.key(0), recipe, callback=Mine())
    starts = [text for text in said if re.fullmatch(r"trying start \d+ of \d+ on \d paths", text)]
    assert len(starts) == int(starts[-1].split()[4]) and "solving 8 true paths to fit to" in said
    assert said[0] == "begin" and said.index(starts[-1]) < said.index("0") and said[-2:] == ["5", "end"]
    del Mine.say  # one written before there was `say`
    said.clear()
    fit(Mine())
    assert said == ["begin", *"012345", "end"]


def test_a_ladder_has_a_bar_for_each_solver(capsys):
    bj.fit_ladder(
        FLOW, [bj.init_theta("rk1", n) for n in (2, 3)], jax.random.key(0), RECIPE, callback=bj.progress_bar()
    )
    shown = capsys.readouterr().err
    assert "rk1, NFE 2: 100%" in shown and "rk1, NFE 3: 100%" in shown
    assert re.search(r"NFE 2: .*true paths to fit to", shown) and not re.search(r"NFE 3: .*true paths to fit to", shown)


def test_a_resumed_fit_goes_on_where_it_stopped(capsys):
    states = []
    fit(bj.progress_bar(lambda state, record: states.append(state), disable=True))
    assert [int(state.iteration) for state in states] == [0, 1, 2, 3, 4, 5] and not capsys.readouterr().err
    fit(bj.progress_bar(), state=states[3])
    assert "from iteration 3" in capsys.readouterr().err


def test_the_bar_closes_on_errors():
    def refuse(state, record):
        if record["iteration"] == 2:
            raise KeyboardInterrupt

    bar = bj.progress_bar(refuse)
    with pytest.raises(KeyboardInterrupt):
        fit(bar)
    assert bar._bar is None


def test_without_tqdm_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(
        ModuleNotFoundError, match=r"^progress_bar: wanted tqdm, which is not installed: pip install tqdm"
    ):
        bj.progress_bar()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(callback=3), "callback: wanted a function"),
        (dict(label=3), "label: wanted text, got int"),
        (dict(disable=None), "disable: wanted True or False"),
    ],
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises((TypeError, ValueError), match=f"^{message}"):
        bj.progress_bar(**options)
