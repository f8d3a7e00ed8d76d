"""Solver files: the same bits back, nothing half-loaded, and a solver of another flow is told."""

import importlib.util
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bespoke_jax as bj
from bespoke_jax.families import FAMILIES
from bespoke_jax.fingerprint import TOLERANCE, differences, fingerprint
from bespoke_jax.theta import BASES


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


@pytest.mark.parametrize("learned", ["time", "scale"])
def test_a_theta_comes_back_with_what_is_held(tmp_path, theta, learned):
    part = theta.learning(learned)
    bj.save_solver(tmp_path / "s.json", part)
    back = bj.load_solver(tmp_path / "s.json")
    assert back.learned == learned
    np.testing.assert_array_equal(back.raw, part.raw)
    np.testing.assert_array_equal(back.held, part.held)


def test_a_table_comes_back_bit_for_bit(tmp_path, theta):
    table = bj.to_table(theta)
    bj.save_solver(tmp_path / "t.json", table)
    back = bj.load_solver(tmp_path / "t.json")
    for name in ("t", "a", "b"):
        assert np.array_equal(getattr(back, name), getattr(table, name))


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - set(BASES)))
def test_other_learned_solvers_come_back_as_the_table_they_have_become(tmp_path, family):
    theta = bj.init_theta(family, 4)
    theta = theta.with_raw(0.1 * jax.random.normal(jax.random.key(0), theta.raw.shape))
    bj.save_solver(tmp_path / "s.json", theta)
    back = bj.load_solver(tmp_path / "s.json")
    assert isinstance(back, bj.SolverTable)
    jax.tree.map(np.testing.assert_array_equal, back, jax.jit(bj.to_table)(theta))
    assert json.loads((tmp_path / "s.json").read_text())["family"] == family


def test_a_person_can_read_the_knots(tmp_path, theta):
    bj.save_solver(tmp_path / "s.json", theta)
    content = json.loads((tmp_path / "s.json").read_text())
    np.testing.assert_allclose(content["knots"]["t"], theta.knots().t)
    assert (content["family"], content["order"], content["nfe"], content["dtype"]) == ("rk2", 2, 6, "float32")


def test_rows_are_lines_and_info_is_what_it_was(tmp_path, theta):
    info = {
        "history": [{"loss": 1.5, "note": 'a "quoted",  [text]'}, {"loss": None}],
        "empty": [],
        "shape": [[1, 2], []],
        "more": {},
    }
    bj.save_solver(tmp_path / "s.json", theta, info)
    text = (tmp_path / "s.json").read_text()
    assert json.loads(text)["info"] == info
    assert len(text.splitlines()) < 40  # 6 evaluations: 6 rows of b


@pytest.mark.parametrize("where, name", [(None, "b"), (None, "t"), ("knots", "s")])
def test_what_follows_from_the_raw_numbers_is_not_edited_alone(tmp_path, theta, where, name):
    bj.save_solver(tmp_path / "s.json", theta)
    content = json.loads((tmp_path / "s.json").read_text())
    part = content if where is None else content[where]
    part[name] = (np.array(part[name]) * 1.01).tolist()
    (tmp_path / "s.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"{name}: not what the raw numbers give"):
        bj.load_solver(tmp_path / "s.json")


DOCS = pathlib.Path(__file__).parent.parent / "docs" / "solver_file.md"


def code_of_docs(section):
    """What the first block of code under this heading defines."""
    names = {}
    exec(DOCS.read_text().split(f"## {section}\n")[1].split("```python\n")[1].split("```")[0], names)
    return names


@pytest.mark.parametrize("solver", ["rk1", "rk2", "table"])
def test_readers_of_the_docs_end_where_solve_ends(tmp_path, solver):
    theta = bj.init_theta(solver, 3)
    theta = theta.with_raw(0.1 * jax.random.normal(jax.random.key(0), theta.raw.shape))
    bj.save_solver(tmp_path / "s.json", theta)
    flow = bj.Flow(lambda p, t, x: -x * (1 + t), None, (2,))
    x0 = np.asarray(flow.noise(jax.random.key(1), (5,)))
    wanted = bj.solve(flow, theta, x0)
    numpy = code_of_docs("In NumPy")
    found = numpy["sample"](lambda t, x: -x * (1 + t), numpy["read_solver"](tmp_path / "s.json"), x0)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    if importlib.util.find_spec("torch"):
        import torch

        found = code_of_docs("In PyTorch")["Solver"](tmp_path / "s.json")(lambda t, x: -x * (1 + t), torch.tensor(x0))
        np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-5, atol=1e-6)


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


# --- The fingerprint of the flow. ---


def velocity(params, t, x):
    return jnp.tanh(x.reshape(len(x), -1) @ params + t).reshape(x.shape) - t * x


SHAPE = (3, 2)
WEIGHTS = jax.random.normal(jax.random.key(1), (6, 6))
FLOW = bj.Flow(velocity, WEIGHTS, SHAPE)


def moved(share):
    """FLOW with weights that are off by this share."""
    return bj.Flow(velocity, WEIGHTS + share * jax.random.normal(jax.random.key(2), WEIGHTS.shape), SHAPE)


@pytest.fixture
def path(tmp_path, theta):
    """A solver file that knows FLOW."""
    bj.save_solver(tmp_path / "s.json", theta, flow=FLOW)
    return tmp_path / "s.json"


def test_the_same_flow_is_no_warning(path, theta):
    # Warnings are errors here. Another function of the same values is the same flow.
    same = bj.Flow(lambda p, t, x: velocity(p, t, x), WEIGHTS + 0.0, SHAPE, bj.schedulers.CondOT())
    for flow in (FLOW, same):
        assert np.array_equal(bj.load_solver(path, flow=flow).raw, theta.raw)
    assert bj.load_solver(path).nfe == theta.nfe


def test_a_lower_precision_is_the_same_flow(path):
    def rounded(params, t, x):
        return velocity(params.astype(jnp.bfloat16), t, x.astype(jnp.bfloat16)).astype(jnp.bfloat16)

    bj.load_solver(path, flow=bj.Flow(rounded, WEIGHTS, SHAPE))
    bj.load_solver(path, flow=moved(1e-4))


def test_other_weights_are_a_warning_with_both_figures(path, theta):
    other = moved(1.0)
    stored, found = (fingerprint(flow)["rms"] for flow in (FLOW, other))
    with pytest.warns(UserWarning) as caught:
        solver = bj.load_solver(path, flow=other)
    assert np.array_equal(solver.raw, theta.raw)
    message = str(caught[0].message)
    assert str(path) in message and "another flow" in message and "bespoke_jax.check_solver(" in message
    for figures, word in ((stored, "stored"), (found, "found")):
        assert ", ".join(f"{figure:.3g}" for figure in figures) + f" {word}" in message
    assert caught[0].filename == __file__  # it points at the caller


def test_another_event_shape_is_a_warning_with_both_shapes(path):
    with pytest.warns(UserWarning, match=r"event_shape: \[3, 2\] stored, \[2, 3\] found"):
        bj.load_solver(path, flow=bj.Flow(velocity, WEIGHTS, (2, 3)))


def test_another_scheduler_is_a_warning(tmp_path, theta):
    one, two = (bj.Flow(velocity, WEIGHTS, SHAPE, s) for s in (bj.schedulers.CondOT(), bj.schedulers.Cosine()))
    bj.save_solver(tmp_path / "s.json", theta, flow=one)
    with pytest.warns(UserWarning, match=r"scheduler: alpha .*0\.1, 0\.5, 0\.9 stored, 0\.156, 0\.707, 0\.988 found"):
        bj.load_solver(tmp_path / "s.json", flow=two)
    bj.load_solver(tmp_path / "s.json", flow=FLOW)  # without a scheduler, the velocity decides


def test_a_file_without_fingerprint_loads_and_says_so_only_if_asked(tmp_path, theta):
    bj.save_solver(tmp_path / "s.json", theta)
    assert bj.load_solver(tmp_path / "s.json").nfe == theta.nfe
    with pytest.warns(UserWarning, match=r"s\.json: does not say for which flow .*\n.*check_solver"):
        assert bj.load_solver(tmp_path / "s.json", flow=FLOW).nfe == theta.nfe


@pytest.mark.parametrize(
    "field, value, message",
    [
        (None, [1], "flow: wanted a fingerprint, a JSON object, got list"),
        ("t", [], r"flow\.t: wanted finite numbers"),
        ("t", "now", r"flow\.t: wanted finite numbers"),
        ("noise_std", [1.0], r"flow\.noise_std: .* an entry for each of flow\.t, got \[1\.0\]"),
        ("rms", [1.0, float("nan"), 1.0], r"flow\.rms: wanted finite numbers"),
        ("rms", None, r"flow\.rms: wanted finite numbers"),
        ("projections", [1.0, 2.0, 3.0], r"flow\.projections"),
        ("projections", [[1.0], [2.0, 3.0], [4.0]], r"flow\.projections"),
        ("alpha", [1.0], r"flow\.alpha"),
    ],
)
def test_an_edited_fingerprint_is_refused_with_the_field(tmp_path, theta, field, value, message):
    flow, path = bj.Flow(velocity, WEIGHTS, SHAPE, bj.schedulers.CondOT()), tmp_path / "s.json"
    bj.save_solver(path, theta, flow=flow)
    content = json.loads(path.read_text())
    content["flow"] = value if field is None else content["flow"] | {field: value}
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"s\.json: {message}"):
        bj.load_solver(path, flow=flow)
    assert bj.load_solver(path).nfe == theta.nfe


def test_an_edited_event_shape_is_another_flow(path):
    content = json.loads(path.read_text())
    content["flow"]["event_shape"] = "large"
    path.write_text(json.dumps(content))
    with pytest.warns(UserWarning, match=r"event_shape: large stored, \[3, 2\] found"):
        bj.load_solver(path, flow=FLOW)


def test_a_flow_is_asked_for(tmp_path, theta, path):
    for call in (
        lambda: bj.save_solver(tmp_path / "n.json", theta, flow=velocity),
        lambda: bj.load_solver(path, FLOW.params),
    ):
        with pytest.raises(TypeError, match=r"flow: wanted a bespoke_jax\.Flow"):
            call()
    assert not (tmp_path / "n.json").exists()


def test_a_velocity_that_is_not_finite_leaves_no_file(tmp_path, theta):
    flow = bj.Flow(lambda p, t, x: x / (t - 0.5), None, SHAPE)
    with pytest.raises(ValueError, match=r"flow: its velocity is not finite at t=0\.5"):
        bj.save_solver(tmp_path / "s.json", theta, flow=flow)
    assert not list(tmp_path.iterdir())
    assert "nan % apart" in differences(fingerprint(FLOW), flow)[0]


@pytest.mark.parametrize("share", [0.003, 0.3])
def test_the_distance_is_that_of_the_velocities(share):
    # Without the velocities themselves: 12 numbers estimate it to a factor of 2 at worst.
    flow = moved(share)
    keys, squares = jax.random.split(jax.random.key(5), 3), []
    for t, key in zip((0.1, 0.5, 0.9), keys, strict=True):
        x = jax.random.normal(key, (200, *SHAPE))
        squares.append(jnp.mean((FLOW(t, x) - flow(t, x)) ** 2) / jnp.mean(FLOW(t, x) ** 2))
    apart = float(jnp.mean(jnp.array(squares)) ** 0.5)
    found = differences(fingerprint(FLOW), flow)
    if apart < TOLERANCE / 2:
        assert found == []
    else:
        (line,) = found
        assert apart / 2 < float(line.split(" % apart")[0].split()[-1]) / 100 < 2 * apart


def test_where_the_velocity_vanishes_rounding_is_no_difference():
    # N(0, 1) data under CondOT: u = 0 at t = 0.5 but for rounding.
    flow = bj.analytic.gaussian(jnp.zeros(3), 1.0)
    stored = fingerprint(flow)
    stored["rms"][1], stored["projections"][1] = 3e-8, [1e-8, 2e-8, -1e-8, 0.0]
    assert differences(stored, flow) == []


@pytest.mark.parametrize("name", ["CondOT", "Cosine", "VariancePreserving", "EDM"])
def test_every_scheduler_has_a_fingerprint_that_json_holds(name):
    flow, other = (
        bj.analytic.mixture([[0.5, m], [-1.0, 0.3]], 0.4, scheduler=getattr(bj.schedulers, name)()) for m in (0, 1)
    )
    stored = json.loads(json.dumps(fingerprint(flow), allow_nan=False))
    assert differences(stored, flow) == []
    assert any(line.startswith("velocity") for line in differences(stored, other))
