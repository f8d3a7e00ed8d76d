"""The notebooks of the docs as they are kept: executed in order without errors, small, and listed.

`.ci/notebooks` executes them. tests/test_docs.py checks that the names, arguments and files in them exist.
"""

import importlib.util
import json
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
MOST_BYTES = 200_000  # with all outputs

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path: pathlib.Path, kind: str) -> list[dict]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == kind]


def outputs(path: pathlib.Path) -> list[dict]:
    return [output for cell in cells(path, "code") for output in cell["outputs"]]


def test_there_are_notebooks():
    assert len(NOTEBOOKS) == 5


@each_notebook
def test_is_a_valid_notebook(path):
    notebook = json.loads(path.read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert {cell["cell_type"] for cell in notebook["cells"]} == {"markdown", "code"}
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)
    for cell in notebook["cells"]:
        assert set(cell) - {"execution_count", "outputs"} == {"cell_type", "id", "metadata", "source"}
        assert "".join(cell["source"]).strip()


@each_notebook
def test_begins_with_a_title_and_text_before_code(path):
    kinds = [cell["cell_type"] for cell in json.loads(path.read_text())["cells"]]
    assert kinds[0] == "markdown" and kinds[-1] == "markdown"
    assert "".join(cells(path, "markdown")[0]["source"]).startswith("# ")


@each_notebook
def test_was_executed_in_order_without_errors(path):
    counts = [cell["execution_count"] for cell in cells(path, "code")]
    assert counts == list(range(1, len(counts) + 1))
    found = outputs(path)
    assert not [output for output in found if output["output_type"] == "error"]
    # Warnings and progress bars of libraries are no part of what a notebook teaches.
    assert not [output for output in found if output.get("name") == "stderr"]


@each_notebook
def test_shows_pictures_and_stays_small(path):
    shown = [data for output in outputs(path) for data in output.get("data", {})]
    assert "image/png" in shown
    assert path.stat().st_size < MOST_BYTES


@each_notebook
def test_names_no_folder_of_the_machine_it_ran_on(path):
    kept = json.dumps([output.get("text", output.get("data", {}).get("text/plain", "")) for output in outputs(path)])
    assert not re.findall(r"/(?:tmp|home|root|work|usr)/", kept)


@each_notebook
def test_is_listed_and_its_links_lead_somewhere(path):
    name = f"notebooks/{path.name}"
    assert re.search(rf"^- \[.+\]\({re.escape(name)}\): \S", (ROOT / "docs/llms.txt").read_text(), re.MULTILINE)
    assert f": notebooks/{path.stem}.md\n" in (ROOT / "mkdocs.yml").read_text()
    written = "\n".join("".join(cell["source"]) for cell in cells(path, "markdown"))
    links = [link for link in re.findall(r"\]\(([^)#]+)", written) if not link.startswith("http")]
    assert links and not [link for link in links if not (path.parent / link).exists()]


@each_notebook
def test_a_public_repository_gives_its_page_a_button_for_colab(path):
    spec = importlib.util.spec_from_file_location("notebook_pages", ROOT / ".ci/notebook_pages.py")
    hook = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hook)
    notebook = json.loads(path.read_text())
    here, _ = hook.page_of(notebook, path.stem)
    assert "colab" not in here
    page, _ = hook.page_of(notebook, path.stem, "someone/else")
    address = f"https://colab.research.google.com/github/someone/else/blob/main/{path.relative_to(ROOT)}"
    assert page.count(f"({address}){{ .md-button }}") == 1
    assert page.index(address) < page.index("\n```python")  # above the first cell
    assert page.startswith(here.splitlines()[0])
