"""Solver files: the same bits back, and nothing half-loaded."""

import json

import jax
import numpy as np
import pytest

import bespoke_jax as bj


@pytest.fixture
def theta():
    theta = bj.init_theta("rk2", 3)
    return bj.Theta(jax.random.normal(jax.random.key(0), theta.raw.shape), theta.base, theta.num_steps)


def test_a_theta_comes_back_bit_for_bit(tmp_path, theta):
    bj.save_solver(tmp_path / "s.json", theta, info=dict(psnr=41.5))
    back = bj.load_solver(tmp_path / "s.json")
    assert (back.base, back.num_steps, back.raw.dtype) == ("rk2", 3, theta.raw.dtype)
    assert np.array_equal(back.raw, theta.raw)
    assert json.loads((tmp_path / "s.json").read_text())["info"] == dict(psnr=41.5)


def test_a_table_comes_back_bit_for_bit(tmp_path, theta):
    table = bj.to_table(theta)
    bj.save_solver(tmp_path / "t.json", table)
    back = bj.load_solver(tmp_path / "t.json")
    for name in ("t", "a", "b"):
        assert np.array_equal(getattr(back, name), getattr(table, name))


def test_a_person_can_read_the_knots(tmp_path, theta):
    bj.save_solver(tmp_path / "s.json", theta)
    content = json.loads((tmp_path / "s.json").read_text())
    np.testing.assert_allclose(content["knots"]["t"], theta.knots().t)
    assert content["nfe"] == 6


def test_a_solver_that_is_not_finite_is_not_written(tmp_path, theta):
    broken = bj.Theta(theta.raw.at[0].set(np.nan), theta.base, theta.num_steps)
    with pytest.raises(ValueError, match="NaN"):
        bj.save_solver(tmp_path / "s.json", broken)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("what", [3, None, "rk2"])
def test_only_solvers_are_written(tmp_path, what):
    with pytest.raises(TypeError, match="theta"):
        bj.save_solver(tmp_path / "s.json", what)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        bj.load_solver(tmp_path / "nowhere.json")


@pytest.mark.parametrize(
    "edit, message",
    [
        (lambda text: text[: len(text) // 2], "complete JSON"),
        (lambda text: "", "complete JSON"),
        (lambda text: "[1, 2]", "format"),
        (lambda text: text.replace("version 1", "version 9"), "format"),
        (lambda text: text.replace('"rk2"', '"rk7"'), "family"),
        (lambda text: text.replace('"num_steps": 3', '"num_steps": 4'), "raw"),
        (lambda text: text.replace('"num_steps": 3', '"num_steps": "3"'), "num_steps"),
        (lambda text: text.replace('"num_steps": 3', '"num_steps": 1e9'), "num_steps"),
        (lambda text: text.replace("float32", "complex64"), "dtype"),
        (lambda text: text.replace('"raw": [', '"raw": [NaN,', 1).replace(",", "", 0), "raw"),
        (lambda text: text.replace('"raw": [', '"raw": ["x",', 1), "raw"),
    ],
)
def test_an_edited_file_is_refused_with_the_field(tmp_path, theta, edit, message):
    path = tmp_path / "s.json"
    bj.save_solver(path, theta)
    path.write_text(edit(path.read_text()))
    with pytest.raises(ValueError, match=message):
        bj.load_solver(path)


def test_nan_in_the_right_place_is_refused(tmp_path, theta):
    path = tmp_path / "s.json"
    bj.save_solver(path, theta)
    content = json.loads(path.read_text())
    content["raw"][4] = float("nan")
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"raw.*NaN"):
        bj.load_solver(path)
