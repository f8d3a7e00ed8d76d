"""Warnings point at the line that called the library, however deep in it they are raised."""

import jax
import jax.numpy as jnp
import pytest

import bespoke_jax as bj
from tests import typechecked

KEY = jax.random.key(0)


@pytest.fixture(autouse=True)
def plain():
    with typechecked.uninstalled():
        yield


START = bj.init_theta("rk1", 2)
FEW = bj.Recipe(stages=(bj.Stage("endpoint", 1, batch_size=4),), num_paths=4, num_validation=4, choose_start=False)
GOOD = bj.analytic.mixture([[-1.0, 0.5], [1.0, 0.0]], std=0.3)
REVERSED = bj.Flow(lambda params, t, x: GOOD.velocity(params, 1 - t, x), GOOD.params, (2,), bj.schedulers.CondOT())


def check(flow, **options):
    return bj.check_solver(flow, bj.classic.rk4(64), KEY, num_paths=4, others={}, **options)


def reported_to_a_callback():
    fine = bj.Flow(lambda params, t, x: -params * x, jnp.float32(1.0), (2,))
    bj.fit(fine, START, KEY, FEW, callback=lambda *_: bj.ground_truth(GOOD, jnp.ones((1, 2)), atol=10.0))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: bj.fit(REVERSED, START, KEY, FEW), "velocity: at t = 0"),
        (lambda: bj.fit_ladder(REVERSED, [START], KEY, FEW), "velocity: at t = 0"),
        (lambda: check(REVERSED), "velocity: at t = 0"),
        (lambda: check(GOOD, rtol=1e-2), "check_solver: the solver is"),
        (lambda: check(GOOD, atol=10.0), "atol: 10 is"),
        (lambda: bj.ground_truth(GOOD, jnp.ones((1, 2)), atol=10.0), "atol: 10 is"),
        (reported_to_a_callback, "atol: 10 is"),
    ],
)
def test_a_warning_points_at_the_caller(call, message):
    with pytest.warns(UserWarning) as caught:
        call()
    assert any(str(warning.message).startswith(message) for warning in caught)
    assert {warning.filename for warning in caught} == {__file__}


def test_a_solver_file_of_another_flow_points_at_the_caller(tmp_path):
    with pytest.warns(UserWarning, match="velocity: at t = 0") as saved:
        bj.save_solver(tmp_path / "s.json", START, flow=REVERSED)
    with pytest.warns(UserWarning, match="learned for another flow") as loaded:
        bj.load_solver(tmp_path / "s.json", flow=GOOD)
    assert {warning.filename for warning in (*saved, *loaded)} == {__file__}
