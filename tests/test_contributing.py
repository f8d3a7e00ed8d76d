"""CONTRIBUTING.md: each example is put in its place by its row, and keeps what the page promises of it."""

import ast
import doctest
import importlib
import importlib.util
import itertools
import pathlib
import re
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from ml_collections import ConfigDict

import bespoke_jax as bj
from experiments.learning import flows
from tests import zoo

ROOT = pathlib.Path(__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
BLOCKS = re.findall(r"^```python\n# (\S+?\.py)(?:, a row of (\w+))?\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
FILES = {path: source for path, table, source in BLOCKS if not table}
ROWS = {table: (path, source) for path, table, source in BLOCKS if table}
KEY = jax.random.key(0)


def name_of(path):
    return path.removesuffix(".py").replace("/", ".")


@pytest.fixture
def place(monkeypatch):
    """place(path) -> the module, as if the example stood in this file; place(path, table) adds its row to the table too."""

    def put(path, table=None):
        name = name_of(path)
        module = types.ModuleType(name)
        if (ROOT / path).exists():  # an addition to a file that there is
            vars(module).update(vars(importlib.import_module(name)), __name__=name)
        else:
            monkeypatch.setitem(sys.modules, name, module)
        exec(compile(FILES[path], path, "exec"), vars(module))
        if table is not None:
            where, row = ROWS[table]
            room = importlib.import_module(name_of(where))
            monkeypatch.setattr(bj.models, name.rpartition(".")[2], module, raising=False)
            for key, value in eval(f"{{{row}}}", {**vars(module), **vars(room)}).items():
                assert key not in getattr(room, table)
                monkeypatch.setitem(getattr(room, table), key, value)
        return module

    return put


def slope(steps, errors):
    """The order of convergence: minus the slope of log error over log steps."""
    return -np.polyfit(np.log(steps), np.log(errors), 1)[0]


def orders(make, steps, problem="mixture 5"):
    """The order at which solvers `make(n)` converge on a problem of the zoo; their tables run in NumPy."""
    problem, errors = zoo.PROBLEMS[problem], []
    x0 = problem.x_at_time(0.0, 3)
    for n in steps:
        with jax.enable_x64(True):
            t, a, b = map(np.asarray, jax.tree.leaves(bj.to_table(make(n))))
        x, velocities = x0, []
        for time, factor, row in zip(t, a, b, strict=True):
            velocities.append(problem.velocity(time, x))
            x = factor * x0 + np.tensordot(row[: len(velocities)], velocities, axes=1)
        errors.append(np.max(np.abs(x - np.asarray(problem.paths.x1))))
    return slope(steps, errors)


# --- The page. ---


def test_each_kind_has_a_file_and_all_but_the_adapter_a_row():
    assert len(FILES) == 5
    assert set(ROWS) == {"FAMILIES", "LOSSES", "_BY_NAME", "_ON_VELOCITY", "_KINDS"}
    assert len(BLOCKS) == PAGE.count("```python\n") == len(FILES) + len(ROWS)


@pytest.mark.parametrize("path", FILES)
def test_examples_keep_the_rules(path):
    source = FILES[path]
    tree = ast.parse(source)
    assert max(map(len, source.splitlines())) <= 130
    if not (ROOT / path).exists():
        assert ast.get_docstring(tree) and "__all__" in source
    public = [node for node in tree.body if not getattr(node, "name", "_").startswith("_")]
    for node in [inner for outer in public for inner in ast.walk(outer)]:
        if isinstance(node, ast.FunctionDef) and (node in public or "self" in {a.arg for a in node.args.args}):
            assert node.returns and ast.get_docstring(node)
            assert all(a.annotation or a.arg in ("self", "cls") for a in (*node.args.args, *node.args.kwonlyargs))
        elif isinstance(node, ast.ClassDef):
            assert ast.get_docstring(node)


@pytest.mark.parametrize("path", [path for path, source in FILES.items() if ">>>" in source])
def test_documented_examples_run(place, path):
    names = dict(vars(place(path)))
    nodes = (ast.Module, ast.ClassDef, ast.FunctionDef)
    texts = [ast.get_docstring(node) or "" for node in ast.walk(ast.parse(FILES[path])) if isinstance(node, nodes)]
    found = doctest.DocTestParser().get_doctest("\n\n".join(texts), names, path, path, 0)
    failed, tried = doctest.DocTestRunner().run(found)
    assert tried and not failed


def test_files_and_modules_of_the_page_exist():
    prose = re.sub(r"^```.*?^```$", "", PAGE, flags=re.DOTALL | re.MULTILINE)
    named = set(re.findall(r"(?<![\w/.])((?:bespoke_jax|experiments|tests|docs|benchmarks|\.ci)/[\w./]+\.\w+)", PAGE))
    missing = {path for path in named if not (ROOT / path).exists()}
    assert missing == {path for path in FILES if not (ROOT / path).exists()}
    for name in re.findall(r"python -m ((?:experiments|benchmarks)\.\w+)", prose):
        assert importlib.util.find_spec(name)


# --- The examples. ---


def test_family_starts_as_midpoint_keeps_its_order_and_learns(place):
    place("bespoke_jax/learned/nodes.py", "FAMILIES")
    start = bj.init_theta("nodes", num_steps=4)  # a power of 2: not even rounding differs
    for found, wanted in zip(*(jax.tree.leaves(bj.to_table(s)) for s in (start, bj.classic.midpoint(8))), strict=True):
        np.testing.assert_array_equal(found, wanted)

    def uneven(n):
        return bj.init_theta("nodes", n, jnp.float64).with_raw(jnp.linspace(-1.0, 1.5, n, dtype=jnp.float64))

    assert abs(orders(uneven, [16, 48]) - 2) < 0.2

    vp = bj.schedulers.VariancePreserving()
    flow = bj.analytic.mixture([[1.0, -1.0], [-0.5, 1.5]], std=0.4, scheduler=vp)
    recipe = bj.Recipe(stages=(bj.Stage("endpoint", 16, validate_every=16),), num_paths=32, num_validation=32)
    result = bj.fit(flow, start, KEY, recipe)
    assert result.theta.family == "nodes" and result.theta.nfe == 8
    assert result.history[-1]["rmse"] < 0.5 * result.history[0]["rmse"]


def test_family_is_saved_as_its_table(place, tmp_path):
    place("bespoke_jax/learned/nodes.py", "FAMILIES")
    solver = bj.init_theta("nodes", 2).with_raw(jnp.array([0.3, -1.0]))
    bj.save_solver(tmp_path / "nodes.json", solver)
    for found, wanted in zip(
        *(jax.tree.leaves(s) for s in (bj.load_solver(tmp_path / "nodes.json"), bj.to_table(solver))), strict=True
    ):
        np.testing.assert_allclose(found, wanted, atol=1e-7)


def test_loss_is_that_of_numpy_has_its_gradient_and_is_lowered(place):
    place("bespoke_jax/fitting/losses_of_slopes.py", "LOSSES")
    flow = bj.analytic.mixture(np.random.default_rng(0).standard_normal((3, 2, 3)), std=0.5)
    paths = bj.ground_truth(flow, flow.noise(KEY, (8,)))
    solver, loss = bj.init_theta("rk1", 3), bj.losses.named("slopes")

    error = np.asarray(bj.solve(flow, solver, paths.states[:, 0]) - paths.x1, np.float64)
    squares = [
        (part**2).reshape(8, -1) for part in (error, error[:, 1:] - error[:, :-1], error[:, :, 1:] - error[:, :, :-1])
    ]
    np.testing.assert_allclose(
        jax.jit(loss)(flow, solver, paths), np.mean(np.log(np.mean(np.concatenate(squares, axis=1), axis=1))), rtol=1e-4
    )

    def value_of(raw):
        return loss(flow, solver.with_raw(raw), paths)

    value = jax.jit(value_of)
    gradient = jax.jit(jax.grad(value_of))(solver.raw)
    along, step = jnp.cos(jnp.arange(solver.num_parameters, dtype=jnp.float32)), 1e-2
    difference = (value(solver.raw + step * along) - value(solver.raw - step * along)) / (2 * step)
    np.testing.assert_allclose(gradient @ along, difference, rtol=0.02)

    recipe = bj.Recipe(stages=(bj.Stage("slopes", 16, validate_every=16),), num_paths=32, num_validation=32)
    result = bj.fit(flow, solver, KEY, recipe)
    assert result.history[-1]["stage"] == "slopes"
    fresh = bj.ground_truth(flow, flow.noise(jax.random.key(1), (32,)))
    after, before = (jax.jit(loss)(flow, theta, fresh) for theta in (result.theta, solver))
    assert after < before - 1


def test_scheduler_carries_a_gaussian_along_its_closed_form(place):
    place("bespoke_jax/schedulers.py", "_BY_NAME")
    scheduler = bj.schedulers.by_name("polynomial", power=3)
    assert scheduler == bj.schedulers.from_config({"name": "polynomial", "power": 3.0})
    mean, std = np.array([1.0, -2.0]), 0.4
    with jax.enable_x64(True):
        t = np.linspace(0.05, 0.95, 7)
        np.testing.assert_allclose(scheduler.snr_inverse(scheduler.snr(t)), t, rtol=1e-9)
        flow = bj.analytic.gaussian(mean, std, scheduler)
        x0 = np.asarray(flow.noise(KEY, (5,), jnp.float64))
        found = np.asarray(zoo.solve(flow, bj.classic.rk4(400, jnp.float64), x0, return_path=True))[::4]
    t = np.linspace(0, 1, 101)[:, None, None]
    alpha, sigma = t**3, 1 - t**3  # at t = 0 they are 0 and 1
    np.testing.assert_allclose(found, alpha * mean + np.sqrt(alpha**2 * std**2 + sigma**2) * x0, atol=1e-6)


@pytest.mark.parametrize("power", [0.5, np.nan, "2"])
def test_scheduler_refuses_what_is_none(place, power):
    place("bespoke_jax/schedulers.py", "_BY_NAME")
    with pytest.raises(ValueError, match="power: wanted"):
        bj.schedulers.by_name("polynomial", power=power)


def test_dedicated_solver_has_order_2_and_is_compared_with(place):
    module = place("bespoke_jax/classic/leapfrog.py", "_ON_VELOCITY")
    for grid in ("uniform", "quadratic"):
        assert abs(orders(lambda n, grid=grid: module.leapfrog(n, jnp.float64, grid=grid), [64, 128, 256]) - 2) < 0.2
    tables = bj.classic.dedicated(5, None)
    assert {"leapfrog/uniform", "leapfrog/quadratic"} < set(tables)
    line = tables["leapfrog/quadratic"].walk(lambda t, x: jnp.full_like(x, 3.0), jnp.float32(0.5))
    np.testing.assert_allclose(line, 3.5, rtol=1e-6)


def mlp_file(path, **changes):
    random = np.random.default_rng(0)
    widths = (4, 8, 8, 3)
    state = {}
    for i, (narrow, wide) in enumerate(itertools.pairwise(widths)):
        state[f"{2 * i}.weight"] = random.standard_normal((wide, narrow)).astype(np.float32)
        state[f"{2 * i}.bias"] = random.standard_normal(wide).astype(np.float32)
    state = {name: value for name, value in (state | changes).items() if value is not None}
    safetensors.numpy.save_file(state, path)
    return state


def mlp_section(path):
    return ConfigDict(dict(name="mlp", path=str(path), missing="weights", remedy="train some", scheduler="cosine"))


def test_importer_gives_the_velocity_of_the_weights(place, tmp_path):
    place("bespoke_jax/models/mlp.py", "_KINDS")
    state = mlp_file(tmp_path / "mlp.safetensors")
    flow = flows.load(mlp_section(tmp_path / "mlp.safetensors"))
    x, t = np.random.default_rng(1).standard_normal((5, 3)).astype(np.float32), 0.3
    y = np.concatenate([x, np.full((5, 1), t)], axis=1)
    for i in (0, 2, 4):
        y = y @ state[f"{i}.weight"].astype(np.float64).T + state[f"{i}.bias"]
        y = y / (1 + np.exp(-y)) if i < 4 else y
    np.testing.assert_allclose(flow(t, x), y, rtol=1e-4, atol=1e-5)
    assert flow.event_shape == (3,) and flow.scheduler == bj.schedulers.Cosine()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"2.bias": None}, r"mlp\.safetensors: wanted the tensors 0\.bias, .*, got 2\.bias missing or left over"),
        ({"extra": np.zeros(2, np.float32)}, r"mlp\.safetensors: wanted the tensors .*, got .*, extra missing or left"),
        (
            {"2.weight": np.zeros((8, 7), np.float32)},
            r"mlp\.safetensors: 2\.weight: wanted shape \(8, 8\), got \(8, 7\)",
        ),
        ({"4.bias": np.zeros((), np.float32)}, r"mlp\.safetensors: 0\.weight: wanted shape \(8, 1\), got \(8, 4\)"),
    ],
)
def test_importer_refuses_other_weights(place, tmp_path, changes, message):
    place("bespoke_jax/models/mlp.py", "_KINDS")
    mlp_file(tmp_path / "mlp.safetensors", **changes)
    with pytest.raises(ValueError, match=message):
        flows.load(mlp_section(tmp_path / "mlp.safetensors"))


def test_importer_refuses_a_truncated_file(place, tmp_path):
    place("bespoke_jax/models/mlp.py", "_KINDS")
    path = tmp_path / "mlp.safetensors"
    mlp_file(path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"mlp\.safetensors: truncated"):
        flows.load(mlp_section(path))
