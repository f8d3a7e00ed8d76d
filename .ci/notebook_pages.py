"""Pages of the docs from the notebooks in docs/notebooks, as they are kept: a hook of mkdocs, named in mkdocs.yml.

Each notebook NAME.ipynb gives a page notebooks/NAME.md, with its text, its code, what the code printed, and its pictures. The
notebook itself is a file beside it. Nothing is executed.

If `extra: repository` of mkdocs.yml names a public repository on GitHub, as "owner/name", each page has a button that opens the
notebook in Colab. It is read from GITHUB_REPOSITORY, which GitHub sets in its workflows.
"""

import base64
import json
import pathlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files


def on_files(files: "Files", config: "MkDocsConfig") -> "Files":
    """Add a page for each notebook, and its pictures."""
    from mkdocs.structure.files import File  # the tests of `page_of` run without mkdocs

    for path in sorted(pathlib.Path(config.docs_dir, "notebooks").glob("*.ipynb")):
        page, pictures = page_of(json.loads(path.read_text()), path.stem, config.extra.get("repository"))
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=page))
        for name, content in pictures.items():
            files.append(File.generated(config, f"notebooks/{name}", content=content))
    return files


def page_of(notebook: dict, name: str, repository: str | None = None) -> tuple[str, dict[str, bytes]]:
    """(the page in Markdown, its pictures by the name of their files)."""
    parts, pictures = [], {}
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {})
            if kind := next((kind for kind in ("png", "gif") if f"image/{kind}" in data), None):
                picture = f"{name}-{len(pictures) + 1}.{kind}"
                pictures[picture] = base64.b64decode("".join(data[f"image/{kind}"]))
                parts.append(f"![Figure {len(pictures)}]({picture})")
            else:
                text = "".join(output.get("text", data.get("text/plain", ""))).rstrip("\n")
                parts.append(f"```text\n{text}\n```")
    # Below the title, which is the first line.
    title, _, rest = parts[0].partition("\n")
    where = f"*A notebook: [{name}.ipynb]({name}.ipynb).*\n"
    if repository:
        where += colab(name, repository)
    parts[0] = f"{title}\n\n{where}{rest}"
    return "\n\n".join(parts) + "\n", pictures


def colab(name: str, repository: str) -> str:
    """A button that opens the notebook in Colab, and the cell that a new machine there needs first."""
    address = f"https://colab.research.google.com/github/{repository}/blob/main/docs/notebooks/{name}.ipynb"
    package = f"bespoke-jax[plots] @ git+https://github.com/{repository}"
    return f'''
[Open in Colab]({address}){{ .md-button }}

There, run `%pip install -q "{package}"` first.
'''
