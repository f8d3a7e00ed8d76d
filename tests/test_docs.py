"""What the pages say of the code: their examples run, the names, files and counts in them exist."""

import ast
import dataclasses
import doctest
import importlib
import importlib.util
import inspect
import json
import pathlib
import re
import textwrap
import types

import jax
import jax.numpy as jnp
import pytest

import bespoke_jax as bj
from bespoke_jax.learned.families import FAMILIES

ROOT = pathlib.Path(__file__).parents[1]

IN_DOCS = tuple(str(path.relative_to(ROOT / "docs")) for path in sorted((ROOT / "docs").rglob("*.md")))
PAGES = ("README.md", "benchmarks/README.md", *(f"docs/{page}" for page in IN_DOCS))
NOTEBOOKS = tuple(f"docs/notebooks/{path.name}" for path in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")))


def text(page: str) -> str:
    """What is written on a page; of a notebook its text, and its cells of code as blocks, without their outputs."""
    content = (ROOT / page).read_text()
    return _written(json.loads(content)["cells"]) if page.endswith(".ipynb") else content


def _written(cells: list[dict]) -> str:
    parts = []
    for cell in cells:
        lines = "".join(cell["source"]).split("\n")
        code = "\n".join(line for line in lines if not line.startswith("%"))
        parts.append(f"```python\n{code}\n```" if cell["cell_type"] == "code" else "\n".join(lines))
    return "\n\n".join(parts)


def blocks(page: str) -> list[str]:
    """The Python blocks of a page, those within tabs too."""
    found = re.findall(r"^( *)```python\n(.*?)^\1```$", text(page), re.DOTALL | re.MULTILINE)
    return [textwrap.dedent(block) for _, block in found]


def scripts(page: str) -> list[str]:
    """The Python blocks of a page that stand alone, marked by <!-- run -->."""
    found = re.findall(r"^( *)<!-- run -->\n\1```python\n(.*?)^\1```$", text(page), re.DOTALL | re.MULTILINE)
    return [textwrap.dedent(block) for _, block in found]


def found(name: str):
    """What bj.<name> is."""
    value = bj
    for part in name.split("."):
        value = getattr(value, part)
    return value


def exists(name: str) -> bool:
    try:
        found(name)
    except AttributeError:
        return False
    return True


def code(page: str) -> list[ast.Module]:
    """The parsed blocks of a page, those with prompts as the code behind the prompts."""
    sources = [
        "".join(example.source for example in doctest.DocTestParser().get_examples(block)) if ">>>" in block else block
        for block in blocks(page)
    ]
    return [ast.parse(source) for source in sources]


@pytest.mark.parametrize("page", [page for page in PAGES if any(">>>" in block for block in blocks(page))])
def test_examples_run(page):
    # One namespace a page: a block goes on where the one before ended.
    examples = "".join(block for block in blocks(page) if ">>>" in block)
    test = doctest.DocTestParser().get_doctest(examples, {}, page, page, 0)
    failed, tried = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS).run(test)
    assert tried and not failed


@pytest.mark.parametrize("page", [page for page in PAGES if scripts(page)])
def test_scripts_run(page, own_modules, monkeypatch):
    # As they stand, but for fits and checks of solvers, which take seconds and have tests of their own.
    monkeypatch.setattr(bj, "fit", lambda flow, solver, key, callback=None: types.SimpleNamespace(theta=solver))
    monkeypatch.setattr(bj, "check_solver", lambda flow, solver, key: solver.nfe)
    monkeypatch.syspath_prepend(own_modules)
    for script in scripts(page):
        if name := re.match(r"# (\w+\.py)\n", script):
            (own_modules / name[1]).write_text(script)
        made: dict = {}
        exec(script, made)
        if isinstance(flow := made.get("flow"), bj.Flow):
            assert bj.sample(flow, bj.classic.euler(2), jax.random.key(0), num_samples=3).shape == (
                3,
                *flow.event_shape,
            )


@pytest.mark.parametrize("page", PAGES + NOTEBOOKS)
def test_names_exist(page):
    # In blocks and in the prose.
    names = sorted(set(re.findall(r"\bbj\.([A-Za-z_][\w.]*\w)", text(page))))
    assert not [name for name in names if not exists(name)]


def calls(page: str) -> list[tuple[str, ast.Call]]:
    """The calls of functions bj.<name> in the blocks of a page, and their names."""
    nodes = [node for tree in code(page) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    named = [(re.fullmatch(r"bj\.([\w.]+)", ast.unparse(node.func)), node) for node in nodes]
    return [(match[1], node) for match, node in named if match]


@pytest.mark.parametrize("page", PAGES + NOTEBOOKS)
def test_calls_have_arguments_that_exist(page):
    for name, call in calls(page):
        positional = [arg for arg in call.args if not isinstance(arg, ast.Starred)]
        keywords = {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}
        signature = inspect.signature(found(name))
        is_whole = len(positional) + len(keywords) == len(call.args) + len(call.keywords)
        try:
            (signature.bind if is_whole else signature.bind_partial)(*positional, **keywords)
        except TypeError as error:
            raise AssertionError(f"{ast.unparse(call)}: {error}") from None


@pytest.mark.parametrize("page", PAGES + NOTEBOOKS)
def test_files_and_modules_exist(page):
    content = text(page)
    files = set(re.findall(r"\b(?:bespoke_jax|experiments/configs|tests|benchmarks|docs)/[\w/.-]*\w", content))
    modules = set(re.findall(r"\b(?:experiments|benchmarks|bespoke_jax)(?!\.md\b)(?:\.[a-z_]\w*)+", content))
    # Of `experiments.x.y` the last part may be a name in the module x.
    assert not [name for name in sorted(files) if not (ROOT / name).exists()]
    assert not [name for name in sorted(modules) if not _is_module_or_name(name)]


def _is_module_or_name(name):
    parent, _, last = name.rpartition(".")
    try:
        if importlib.util.find_spec(name):
            return True
    except ModuleNotFoundError:
        pass
    try:
        return hasattr(importlib.import_module(parent), last)
    except ModuleNotFoundError:
        return False


@pytest.mark.parametrize("page", ["README.md", "benchmarks/README.md"])
def test_links_lead_somewhere(page):
    # Those within docs/ are checked by `mkdocs build --strict`.
    links = [link for link in re.findall(r"\]\(([^)#]+)", text(page)) if not link.startswith("http")]
    assert not [link for link in links if not (ROOT / page).parent.joinpath(link).exists()]


def rows(page: str, head: str) -> list[list[str]]:
    """The cells of the table whose first line begins with `head`."""
    lines = text(page).split("\n")
    first = next(number for number, line in enumerate(lines) if line.startswith(head))
    table = lines[first + 2 :]
    last = next((number for number, line in enumerate(table) if not line.startswith("|")), len(table))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[:last]]


@pytest.mark.parametrize("row", rows("docs/fitting.md", "| `init_theta"), ids=lambda row: row[0].split('"')[1])
def test_families_have_as_many_numbers_as_the_table_says(row):
    (family,) = re.findall(r'`"(\w+)"`', row[0])
    formula = re.sub(r"(\d|m) ?([nm(])", r"\1 * \2", row[1])
    for steps in (2, 5, 8):
        assert bj.init_theta(family, steps).num_parameters == eval(formula, {"n": steps, "m": steps})


def test_every_family_has_a_row():
    assert [row[0].split('"')[1] for row in rows("docs/fitting.md", "| `init_theta")] == list(FAMILIES)


def test_every_grid_has_a_row():
    assert [row[0].strip('`"') for row in rows("docs/solvers.md", "| name | equal steps in")] == list(bj.classic.GRIDS)


def test_functions_of_the_dedicated_solvers_exist():
    names = [name for row in rows("docs/solvers.md", "| function |") for name in re.findall(r"`(\w+)[`(]", row[0])]
    assert {"euler", "rk4", "unipc", "genie"} < set(names)
    assert not [name for name in names if not exists(f"classic.{name}")]


def test_functions_of_the_equations_exist():
    names = [name for row in rows("docs/theory.md", "| what | equation") for name in re.findall(r"`([\w.]+)`", row[2])]
    assert len(names) > 12 and not [name for name in names if not exists(name)]


def test_solver_file_has_the_fields_of_the_table(tmp_path):
    flow = bj.Flow.from_prediction(lambda params, t, x: x, None, (2,), bj.schedulers.CondOT())
    bj.save_solver(tmp_path / "solver.json", bj.init_theta("rk2", 2), info={"by": "test"}, flow=flow)
    calls = dataclasses.replace(
        bj.LearnedCalls.euler(2, at_once=True).table(), first=jnp.ones(()), c=jnp.ones(3), xi=jnp.ones(2)
    )
    bj.save_solver(tmp_path / "general.json", calls)
    written = {name for file in ("solver", "general") for name in json.loads((tmp_path / f"{file}.json").read_text())}
    fields = [name for row in rows("docs/solver_file.md", "| field |") for name in re.findall(r"`(\w+)`", row[0])]
    assert sorted(fields) == sorted(written)


def test_the_index_for_language_models_lists_every_page():
    listed = re.findall(r"^- \[.+\]\(([\w/]+\.md)\): \S", text("docs/llms.txt"), re.MULTILINE)
    assert sorted(listed) == sorted(IN_DOCS)


def test_every_benchmark_has_a_row():
    listed = re.findall(r"^\| `(?:python -m )?benchmarks[./](\w+)", text("benchmarks/README.md"), re.MULTILINE)
    modules = {path.stem for path in (ROOT / "benchmarks").glob("*.py")} - {"client_models", "figures"}
    assert sorted(listed) == sorted(modules)


def test_reference_lists_the_public_names():
    pages = [page for page in PAGES if page.startswith("docs/api/")]
    listed = [name for page in pages for name in re.findall(r"^::: bespoke_jax\.(\w+)$", text(page), re.MULTILINE)]
    assert sorted(listed) == sorted(bj.__all__)


def test_the_overview_of_the_reference_links_to_each_of_its_pages():
    linked = {f"docs/{link}" for link in re.findall(r"\]\((api/\w+\.md)\)", text("docs/api.md"))}
    assert linked == {page for page in PAGES if page.startswith("docs/api/")}
