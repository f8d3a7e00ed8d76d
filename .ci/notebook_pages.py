"""Pages of the docs from the notebooks in docs/notebooks, as they are kept: a hook of mkdocs, named in mkdocs.yml.

Each notebook NAME.ipynb gives a page notebooks/NAME.md, with its text, its code, what the code printed, and its pictures. The
notebook itself is a file beside it. Nothing is executed.
"""

import base64
import json
import pathlib

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each notebook, and its pictures."""
    for path in sorted(pathlib.Path(config.docs_dir, "notebooks").glob("*.ipynb")):
        page, pictures = page_of(json.loads(path.read_text()), path.stem)
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=page))
        for name, content in pictures.items():
            files.append(File.generated(config, f"notebooks/{name}", content=content))
    return files


def page_of(notebook: dict, name: str) -> tuple[str, dict[str, bytes]]:
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
    parts[0] = f"{title}\n\n*A notebook: [{name}.ipynb]({name}.ipynb).*\n{rest}"
    return "\n\n".join(parts) + "\n", pictures
