"""The house: each room of the library imports only rooms below it, and nothing imports the public face."""

import ast
import importlib
import pathlib

import pytest

import bespoke_jax as bj

ROOT = pathlib.Path(bj.__file__).parents[1]
# From the ground up. A room may import itself and what stands above it in this list.
ROOMS = (
    ("bespoke_jax.checks", "bespoke_jax.dtypes", "bespoke_jax.types", "bespoke_jax.warn"),
    ("bespoke_jax.metrics", "bespoke_jax.schedulers", "bespoke_jax.fid"),
    ("bespoke_jax.flow",),
    ("bespoke_jax.solver", "bespoke_jax.stepping", "bespoke_jax.corrections", "bespoke_jax.table"),
    ("bespoke_jax.classic",),
    ("bespoke_jax.run",),
    ("bespoke_jax.learned",),
    ("bespoke_jax.fitting",),
    ("bespoke_jax.compare",),
    ("bespoke_jax.files",),
    ("bespoke_jax.models.weights_io", "bespoke_jax.models.networks"),
    ("bespoke_jax.models",),
    ("bespoke_jax.adapters",),
    ("bespoke_jax.plots",),
    ("bespoke_jax.cli",),
    ("experiments.data", "experiments.run"),
    ("experiments.learning",),
    ("experiments.report",),
    ("experiments.pretraining",),
    ("experiments",),  # the launchers
)


def modules():
    """name -> path of every module of both packages, configs apart."""
    found = {}
    for package in ("bespoke_jax", "experiments"):
        for path in (ROOT / package).rglob("*.py"):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            if "configs" not in path.parts:
                found[name] = path
    return found


MODULES = modules()


def floor(module):
    """How high the room of a module is; of nested rooms the innermost counts."""
    fits = [(len(room), i) for i, rooms in enumerate(ROOMS) for room in rooms if f"{module}.".startswith(f"{room}.")]
    return max(fits)[1]


def imports(path):
    """The modules of ours that a file imports, at its top or within a function; documented examples apart."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_room_imports_only_what_stands_below_it(module):
    if module in ("bespoke_jax", "experiments"):
        return
    for imported in imports(MODULES[module]):
        if imported.partition(".")[0] == "bespoke_jax" and not module.startswith("experiments"):
            assert imported != "bespoke_jax", f"{module} imports the public face"
        if imported in MODULES and imported != "bespoke_jax":
            assert floor(imported) <= floor(module), f"{module} imports {imported}, which stands above it"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_module_has_300_lines_and_a_function_60_at_most(module):
    text = MODULES[module].read_text()
    assert text.count("\n") <= 300
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]
    assert not [node.name for node in functions if node.end_lineno - node.lineno >= 60]


def test_the_benchmarks_import_what_is_there():
    """No test runs them, and pyright reads the two packages alone."""
    for path in (ROOT / "benchmarks").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module in MODULES:
                module = importlib.import_module(node.module)
                for name in (alias.name for alias in node.names):
                    there = f"{node.module}.{name}" in MODULES or hasattr(module, name)
                    assert there, f"{path.name} imports {node.module}.{name}"
