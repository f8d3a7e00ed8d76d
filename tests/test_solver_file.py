"""Solver files: the same bits back, nothing loaded in part, and a warning for another flow."""

import dataclasses
import importlib.util
import inspect
import json
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bespoke_jax as bj
from bespoke_jax.files.fingerprint import TOLERANCE, differences, fingerprint
from bespoke_jax.learned.families import FAMILIES
from bespoke_jax.learned.steps import BASES

# The fields here do not match their schedulers.
pytestmark = pytest.mark.filterwarnings("ignore:velocity. at t = 0")


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
def test_derived_numbers_cannot_be_edited_alone(tmp_path, theta, where, name):
    bj.save_solver(tmp_path / "s.json", theta)
    content = json.loads((tmp_path / "s.json").read_text())
    part = content if where is None else content[where]
    part[name] = (np.array(part[name]) * 1.01).tolist()
    (tmp_path / "s.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"{name}: wanted what the raw numbers give"):
        bj.load_solver(tmp_path / "s.json")


DOCS = pathlib.Path(__file__).parent.parent / "docs" / "solver_file.md"


def code_of_docs(section):
    """The names that the first block of code under this heading defines."""
    names = {}
    exec(DOCS.read_text().split(f"## {section}\n")[1].split("```python\n")[1].split("```")[0], names)
    return names


GENERAL = dataclasses.replace(
    bj.classic.heun(4), first=jnp.float32(0.9), c=jnp.linspace(-0.5, 1, 5), xi=jnp.array([0.1, -2.0], jnp.float32)
)


@pytest.mark.parametrize("solver", ["rk1", "rk2", "table", "general"])
def test_readers_of_the_docs_end_where_solve_ends(tmp_path, solver):
    theta = bj.LearnedTable.of(GENERAL) if solver == "general" else bj.init_theta(solver, 3)
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


@pytest.mark.parametrize("image", [(2,), (4, 2)], ids=["one", "classes"])
def test_a_general_table_comes_back_to_the_bit(tmp_path, image):
    xi = jax.random.normal(jax.random.key(0), image)
    for name, table in {
        "half": dataclasses.replace(GENERAL, xi=xi.astype(jnp.float16).astype(jnp.float32)),
        "single": dataclasses.replace(GENERAL, xi=xi),
        "first": dataclasses.replace(GENERAL, c=None, xi=None),
    }.items():
        bj.save_solver(tmp_path / name, table)
        found = bj.load_solver(tmp_path / name)
        assert json.loads((tmp_path / name).read_text())["format"].endswith("version 2")
        for part, wanted in zip(jax.tree.leaves(found), jax.tree.leaves(table), strict=True):
            assert np.array_equal(part, wanted) and part.dtype == wanted.dtype
    bj.save_solver(tmp_path / "plain", bj.classic.heun(4))
    assert json.loads((tmp_path / "plain").read_text())["format"].endswith("version 1")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(c=None), "c: wanted finite numbers"),
        (dict(c=[0.0] * 4), "c: wanted finite numbers of shape .5."),
        (dict(first=[1.0]), "first"),
        (dict(first="1"), "first"),
        (dict(xi=[0.0, 1.0]), "xi: wanted an object with shape, dtype and base64"),
        (dict(xi=dict(shape=[2], dtype="float32", base64="AAAA")), "xi.base64: wanted 2 numbers"),
        (dict(xi=dict(shape=[2], dtype="int8", base64="AAA=")), "xi.dtype"),
        (dict(xi=dict(shape=[-2], dtype="float16", base64="")), "xi.shape"),
        (dict(xi=dict(shape=[1], dtype="float16", base64="AH4=")), "xi: wanted finite"),
        (dict(xi=dict(shape=[1], dtype="float16", base64="!")), "xi.base64: wanted base64"),
        (dict(format="bespoke_jax solver, version 3"), "version 3"),
    ],
)
def test_a_general_table_that_was_edited_is_named(tmp_path, change, words):
    bj.save_solver(tmp_path / "s.json", GENERAL)
    content = json.loads((tmp_path / "s.json").read_text()) | change
    (tmp_path / "s.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=words):
        bj.load_solver(tmp_path / "s.json")
    for name in ("c", "xi"):
        content = json.loads((tmp_path / "s.json").read_text())
        content.pop(name, None)
        (tmp_path / "without.json").write_text(json.dumps(content))
        with pytest.raises(ValueError, match=r"without\.json"):
            bj.load_solver(tmp_path / "without.json")


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
        (lambda text: text.replace('"num_steps": 3', '"num_steps": 4'), "nfe"),
        (lambda text: text.replace('"num_steps": 3', '"num_steps": 4').replace('"nfe": 6', '"nfe": 8'), "raw"),
        (lambda text: text.replace('"num_steps": 3', '"num_steps": "3"'), "num_steps"),
        (lambda text: text.replace('"num_steps": 3', '"num_steps": 1e9'), "num_steps"),
        (lambda text: text.replace("float32", "complex64"), "dtype"),
        (lambda text: text.replace('"raw": [', '"raw": [NaN,', 1), r"complete JSON file \(NaN is no JSON number\)"),
        (lambda text: text.replace('"raw": [', '"raw": [-Infinity,', 1), r"\(-Infinity is no JSON number\)"),
        (lambda text: text.replace('"raw": [', '"raw": [1e400,', 1), r"\(1e400 is no JSON number\)"),
        (lambda text: text.replace('"raw": [', '"raw": ["x",', 1), "raw"),
        (lambda text: text.replace('"info"', '"nfe": 8, "info"'), r"\(the key 'nfe' is there twice\)"),
        (lambda text: text.replace('"info": {}', '"info": ' + '{"a": ' * 50_000 + "1" + "}" * 50_001), "complete JSON"),
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
    with pytest.raises(ValueError, match=r"s\.json: not a complete JSON file \(NaN is no JSON number\)"):
        bj.load_solver(path)


def edited(path, solver, **fields):
    """The file of a solver with other fields; None removes one."""
    bj.save_solver(path, solver)
    content = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))
    return path


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(nfe=8), "nfe: wanted 6, which follows from family and num_steps, got 8"),
        (dict(nfe=6.0), r"nfe: wanted an integer from 1 to 10000, got 6\.0"),
        (dict(nfe=True), "nfe: wanted an integer from 1 to 10000, got True"),
        (dict(num_steps=True), "num_steps: wanted an integer from 1 to 10000, got True"),
        (dict(order=1), "order: wanted 2, which follows from family and num_steps, got 1"),
        (dict(order=True), "order: wanted 2, .*, got True"),
        (dict(learned="t"), "learned: wanted one of"),
        (dict(learned=["time"]), "learned: wanted one of"),
        (dict(family=["rk2"]), "family: wanted one of"),
        (dict(dtype=["float32"]), "dtype: wanted one of"),
        (dict(info="good"), "info: wanted a JSON object, got str"),
        (dict(flow="mine"), "flow: wanted a fingerprint, a JSON object, got str"),
        (dict(knots=[1.0]), "knots: wanted a JSON object, got list"),
        (dict(knots={}), "t: wanted finite numbers"),
        (dict(b=None), r"b: wanted finite numbers of shape \[6, 6\], got None in place of a list"),
        (dict(raw=["0.5"] * 23), r"raw: wanted finite numbers, got '0\.5'"),
        (dict(raw=[True] * 23), "raw: wanted finite numbers, got True"),
        (dict(raw=[10**400] * 23), "raw: wanted finite numbers, got 1000"),
        (dict(raw=[1e39] * 23), r"raw: wanted numbers that float32 can hold, got up to 1e\+39"),
        (dict(time_range=[0.5, 0.25]), r"time_range: wanted \[first, last\] within \[0, 1\]"),
        (dict(time_range=[0.0]), "time_range: wanted finite numbers"),
        (dict(first=0.5), "first: wanted it in a table of .*version 2.* alone, got .*version 1.*, 'rk2'"),
    ],
)
def test_a_field_of_a_theta_that_is_wrong(tmp_path, theta, fields, message):
    with pytest.raises(ValueError, match=rf"s\.json: {message}"):
        bj.load_solver(edited(tmp_path / "s.json", theta, **fields))


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(t=[0.0, 7.0]), r"t: wanted times within \[0, 1\], got some from 0 to 7"),
        (dict(t=[-0.1, 0.5]), r"t: wanted times within \[0, 1\], got some from -0\.1 to 0\.5"),
        (dict(t=["0", "0.5"]), "t: wanted finite numbers, got '0'"),
        (dict(t=[False, True]), "t: wanted finite numbers, got False"),
        (dict(t=[[0.0], [0.5]]), "t: wanted finite numbers, got list"),
        (dict(a=[1.0, 1e39]), "a: wanted numbers that float32 can hold"),
        (dict(a=[1.0, 1.0, 1.0]), r"a: wanted finite numbers of shape \[2\], got 3 in place of 2"),
        (dict(b=[[0.5, 0.1], [0.5, 0.5]]), r"table\.b: wanted a lower triangular matrix"),
        (dict(b=[[0.5], [0.5, 0.5]]), r"b: wanted finite numbers of shape \[2, 2\], got 1 in place of 2"),
        (dict(nfe=3), r"t: wanted finite numbers of shape \[3\], got 2 in place of 3"),
        (dict(nfe=None), "nfe: wanted an integer from 1 to 10000, got None"),
        (dict(time_range=[0.01, 1.0]), r"t: wanted times within \[0\.01, 1\]"),
        (dict(fields=[0, 1]), "fields: wanted it in a table of .*version 2.* alone, got .*version 1"),
        (dict(block=2), "block: wanted it in a table of"),
        (dict(scale=1.5), "scale: wanted it in a table of"),
        (dict(family="calls"), "fields: wanted the network of each call for the family 'calls', got none"),
    ],
)
def test_a_field_of_a_table_that_is_wrong(tmp_path, fields, message):
    with pytest.raises(ValueError, match=rf"s\.json: {message}"):
        bj.load_solver(edited(tmp_path / "s.json", bj.classic.euler(2), **fields))


def test_times_that_repeat_or_run_back_are_a_table_all_the_same(tmp_path):
    t = [1.0, 0.25, 0.25, 0.0]
    assert bj.load_solver(edited(tmp_path / "s.json", bj.classic.euler(4), t=t)).t.tolist() == t


def test_the_first_files_had_no_table(tmp_path, theta):
    path = edited(tmp_path / "s.json", theta, t=None, a=None, b=None, order=None, learned=None)
    assert np.array_equal(bj.load_solver(path).raw, theta.raw)


def test_a_hostile_file_costs_no_more_than_its_length(tmp_path, monkeypatch):
    # 20,000 evaluations: their table would have 400 million numbers.
    theta = bj.init_theta("rk2", 3)
    many = dict(num_steps=10_000, nfe=20_000, raw=[0] * 79_999, knots=None, a=None, b=None, t=None)
    path = edited(tmp_path / "s.json", theta, **many)
    with pytest.raises(ValueError, match="nfe: wanted an integer from 1 to 10000, got 20000"):
        bj.load_solver(path)
    path = edited(
        tmp_path / "s.json", bj.init_theta("rk1", 3), **many | dict(num_steps=10_000, nfe=10_000, raw=[0] * 39_999)
    )
    monkeypatch.setattr(bj.solver.Solver, "unrolled", None)  # nothing is unrolled
    assert bj.load_solver(path).nfe == 10_000
    path.write_text(json.dumps(json.loads(path.read_text()) | dict(t=[0] * 10_000)))
    with pytest.raises(ValueError, match="a: wanted finite numbers"):
        bj.load_solver(path)


SHIPPED = sorted((pathlib.Path(bj.__file__).parent / "models" / "solvers").rglob("*.json"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_solvers_are_read_to_the_bit(path):
    content, solver = json.loads(path.read_text()), bj.load_solver(path)
    stored = {"raw": solver.numbers()} if isinstance(solver, bj.Theta) else vars(solver.factors)
    for name, value in stored.items():
        if hasattr(value, "dtype"):
            np.testing.assert_array_equal(np.asarray(value), np.array(content[name], content["dtype"]))
    if not isinstance(solver, bj.Theta):
        read = code_of_docs("In NumPy")["read_solver"](path)
        np.testing.assert_array_equal(read["xi"], 0 if solver.xi is None else solver.xi)


def test_numbers_of_the_info_that_json_has_not_are_null(tmp_path, theta):
    history = [{"loss": math.nan, "psnr": 31.5}, {"loss": 0.25, "psnr": np.inf}]
    bj.save_solver(tmp_path / "s.json", theta, {"history": history, "best": (1.0, -math.inf)})
    stored = json.loads((tmp_path / "s.json").read_text())["info"]
    assert stored["history"] == [{"loss": None, "psnr": 31.5}, {"loss": 0.25, "psnr": None}]
    assert stored["best"] == [1.0, None]


def test_the_history_of_a_fit_is_stored(tmp_path):
    flow = bj.analytic.mixture([[1.0, -1.0], [0.0, 1.0]], std=0.3)
    recipe = bj.Recipe(stages=(bj.Stage("endpoint", 2),), num_paths=16, num_validation=16)
    result = bj.fit(flow, bj.init_theta("rk1", 2), jax.random.key(0), recipe)
    bj.save_solver(tmp_path / "s.json", result.theta, info={"history": result.history}, flow=flow)
    stored = json.loads((tmp_path / "s.json").read_text())["info"]["history"]
    assert [record["psnr"] for record in stored] == [record["psnr"] for record in result.history]


@pytest.mark.parametrize(
    "info, error, message",
    [
        ([1, 2], TypeError, "info: wanted a dict, got list"),
        ({"loss": np.float32(1.0)}, TypeError, "info: wanted what JSON can hold"),
        ({1: "a", "1": "b"}, ValueError, "info: .*the key '1' is there twice"),
    ],
)
def test_an_info_that_json_cannot_hold(tmp_path, theta, info, error, message):
    with pytest.raises(error, match=message):
        bj.save_solver(tmp_path / "s.json", theta, info)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "change",
    [
        dict(t=[0.0, 7.0]),
        dict(b=[[0.5, 0.1], [0.5, 0.5]]),
        dict(a=[1.0]),
        dict(t=[0.0, float("nan")]),
    ],
)
def test_what_would_be_refused_is_not_written(tmp_path, change):
    plain = bj.classic.euler(2)
    numbers = {name: jnp.asarray(value) for name, value in (dict(t=plain.t, a=plain.a, b=plain.b) | change).items()}
    with pytest.raises(ValueError, match=r"theta\.[tab]: wanted"):
        bj.save_solver(tmp_path / "s.json", bj.SolverTable(**numbers))
    assert not list(tmp_path.iterdir())


# --- Whole or not at all. ---


def test_a_save_that_fails_leaves_nothing(tmp_path, theta, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    bj.save_solver(tmp_path / "s.json", theta)
    before = (tmp_path / "s.json").read_bytes()
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        bj.save_solver(tmp_path / "s.json", bj.init_theta("rk1", 2))
    assert [path.name for path in tmp_path.iterdir()] == ["s.json"]
    assert (tmp_path / "s.json").read_bytes() == before


@pytest.mark.parametrize("length", [251, 255])
def test_a_name_as_long_as_the_system_takes(tmp_path, theta, length):
    path = tmp_path / ("n" * (length - 5) + ".json")
    bj.save_solver(path, theta)
    assert np.array_equal(bj.load_solver(path).raw, theta.raw)
    with pytest.raises(OSError, match="name too long"):
        bj.save_solver(tmp_path / ("n" * 256), theta)
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_has_the_usual_permissions(tmp_path, theta):
    (tmp_path / "other").write_text("")
    bj.save_solver(tmp_path / "s.json", theta)
    assert (tmp_path / "s.json").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_where_no_file_can_be(tmp_path, theta):
    with pytest.raises(IsADirectoryError, match="is a folder; give the name of a file in it"):
        bj.save_solver(tmp_path, theta)
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*missing; make it first"):
        bj.save_solver(tmp_path / "missing" / "s.json", theta)
    with pytest.raises(TypeError, match="path: wanted the name of a file, got int"):
        bj.save_solver(3, theta)
    assert not list(tmp_path.iterdir())


# --- A flow that keeps a margin from the ends of time. ---


def network(t, x):
    """A velocity that is not finite at either end of time."""
    return -x / (t * (1 - t) + 0.5) / np.where((t > 0) & (t < 1), 1, 0)


@dataclasses.dataclass(frozen=True)
class Within:
    """A velocity that keeps a margin, like that of `Flow.from_prediction`."""

    time_range: tuple[float, float]

    def __call__(self, params, t, x):
        t = jnp.clip(t, *self.time_range)
        return -x / (t * (1 - t) + 0.5) / jnp.where((t > 0) & (t < 1), 1, 0)


MARGIN = bj.Flow(Within((0.01, 0.99)), None, (2,))


@pytest.mark.parametrize("family", ["rk1", "rk2", "table", "curve"])
def test_times_are_written_as_the_flow_has_them(tmp_path, family):
    theta = bj.init_theta(family, 3)
    theta = theta.with_raw(0.1 * jax.random.normal(jax.random.key(0), theta.raw.shape))
    last = bj.to_table(bj.classic.rk4(4))  # evaluates at t = 1
    for solver in (theta, last):
        bj.save_solver(tmp_path / "s.json", solver, flow=MARGIN)
        content = json.loads((tmp_path / "s.json").read_text())
        assert content["time_range"] == [0.01, 0.99]
        times = np.asarray(jax.jit(bj.to_table)(solver).t, float)
        np.testing.assert_allclose(content["t"], np.clip(times, 0.01, 0.99), rtol=0, atol=1e-7)
        x0 = np.asarray(MARGIN.noise(jax.random.key(1), (4,)))
        back = bj.load_solver(tmp_path / "s.json", flow=MARGIN)
        np.testing.assert_allclose(bj.solve(MARGIN, back, x0), bj.solve(MARGIN, solver, x0), rtol=1e-5, atol=1e-6)
        if isinstance(solver, bj.Theta):
            assert np.array_equal(back.raw, solver.raw)
        if isinstance(solver, bj.SolverTable):  # the flow would have moved the times that were moved, and no others
            np.testing.assert_array_equal(bj.solve(MARGIN, back, x0), bj.solve(MARGIN, solver, x0))


def test_a_reader_with_the_network_alone_ends_where_the_flow_ends(tmp_path):
    theta = bj.init_theta("rk2", 3)
    bj.save_solver(tmp_path / "s.json", theta, flow=MARGIN)
    numpy = code_of_docs("In NumPy")
    x0 = np.asarray(MARGIN.noise(jax.random.key(1), (4,)))

    found = numpy["sample"](network, numpy["read_solver"](tmp_path / "s.json"), x0)
    np.testing.assert_allclose(found, bj.solve(MARGIN, theta, x0), rtol=1e-5, atol=1e-6)
    bj.save_solver(tmp_path / "s.json", theta)  # the times of the solver itself, of which 0 is one
    with np.errstate(all="ignore"):
        assert not np.all(np.isfinite(numpy["sample"](network, numpy["read_solver"](tmp_path / "s.json"), x0)))


def test_a_margin_of_one_end_and_of_a_guided_flow(tmp_path):
    one = bj.Flow(Within((0.0, 0.9)), {"condition": jnp.zeros(2)}, (2,))
    for flow in (one, bj.guided(one, 1.0), bj.given(one, jnp.zeros((3, 2)))):
        bj.save_solver(tmp_path / "s.json", bj.classic.rk4(4), flow=flow)
        content = json.loads((tmp_path / "s.json").read_text())
        assert (content["time_range"], content["t"]) == ([0.0, 0.9], [0.0, 0.5, 0.5, float(np.float32(0.9))])


def test_a_flow_without_a_margin_changes_no_file(tmp_path, theta):
    bj.save_solver(tmp_path / "s.json", theta, flow=FLOW)
    content = json.loads((tmp_path / "s.json").read_text())
    assert "time_range" not in content and content["t"] == np.asarray(jax.jit(bj.to_table)(theta).t, float).tolist()


# --- The fingerprint of the flow. ---


def velocity(params, t, x):
    return jnp.tanh(x.reshape(len(x), -1) @ params + t).reshape(x.shape) - t * x


SHAPE = (3, 2)
WEIGHTS = jax.random.normal(jax.random.key(1), (6, 6))
FLOW = bj.Flow(velocity, WEIGHTS, SHAPE)


def moved(share):
    """FLOW with weights changed by this share."""
    return bj.Flow(velocity, WEIGHTS + share * jax.random.normal(jax.random.key(2), WEIGHTS.shape), SHAPE)


@pytest.fixture
def path(tmp_path, theta):
    """A solver file with the fingerprint of FLOW."""
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
        solver = inspect.unwrap(bj.load_solver)(path, flow=other)
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
        ("t", [], r"flow\.t: wanted finite numbers of shape \[3\], got 0 in place of 3"),
        ("t", [0.1, 0.5, 7.0], r"flow\.t: wanted times within \[0, 1\]"),
        ("noise_std", [1.0, -1.0, 1.0], r"flow\.noise_std: wanted numbers >= 0"),
        ("condition", "none", r"flow\.condition: wanted 'any' or nothing, got 'none'"),
        ("event_shape", "large", r"flow\.event_shape: wanted a list of positive integers, got 'large'"),
        ("event_shape", [3.0, 2], r"flow\.event_shape: wanted a list of positive integers"),
        ("projections", [[0.0] * 1_000_000] * 3, r"flow\.projections: .*\[3, 4\], got 1000000 in place of 4"),
        ("t", "now", r"flow\.t: wanted finite numbers"),
        ("noise_std", [1.0], r"flow\.noise_std: wanted finite numbers of shape \[3\]"),
        ("rms", [1.0, "1.0", 1.0], r"flow\.rms: wanted finite numbers, got '1\.0'"),
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
    for asked in (flow, None):
        with pytest.raises(ValueError, match=rf"s\.json: {message}"):
            bj.load_solver(path, flow=asked)


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


@pytest.mark.parametrize("count", [3, 4, 8])
def test_a_given_flow_may_be_compared_with_the_flow_of_one_condition(tmp_path, count):
    flow = bj.Flow(lambda params, t, x: params["condition"] - x, {"condition": jnp.zeros(2)}, (2,))
    bj.save_solver(tmp_path / "s.json", bj.init_theta("rk2", 2), flow=flow)
    with pytest.warns(UserWarning, match=r"condition: one for all samples, or none, stored; one for each sample found"):
        assert bj.load_solver(tmp_path / "s.json", flow=bj.given(flow, jnp.ones((count, 2)))).nfe == 4
