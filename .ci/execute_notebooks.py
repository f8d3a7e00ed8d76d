"""Executes the notebooks of docs/ in this environment: `python .ci/execute_notebooks.py [--write] [--limit SECONDS] [name ...]`.

Prints what each takes: its seconds, and the CPU's with the kernel's start. Fails if one raises an error or takes longer than the
limit. One that imports a library which is not installed is skipped. Without --write the notebooks stay as they are; with it, the
outputs that they keep are replaced.
"""

import argparse
import ast
import base64
import importlib.util
import io
import pathlib
import resource
import sys
import tempfile
import time

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from PIL import Image, ImageSequence

COLOURS, FILM_COLOURS = 256, 32  # of what is kept
FOLDER = pathlib.Path(__file__).parents[1] / "docs" / "notebooks"


def missing(notebook: nbformat.NotebookNode) -> list[str]:
    """The modules that its cells import and that are not installed."""
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    lines = [line for line in code.split("\n") if not line.startswith("%")]
    names = set()
    for node in ast.walk(ast.parse("\n".join(lines))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
    return sorted({name.split(".")[0] for name in names if importlib.util.find_spec(name.split(".")[0]) is None})


def execute(notebook: nbformat.NotebookNode, limit: float) -> None:
    """Run all cells in a new kernel, in an empty folder; their outputs replace those of the notebook."""
    end = time.monotonic() + limit
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(
            notebook,
            timeout_func=lambda cell: max(1, end - time.monotonic()),
            kernel_name="python3",
            extra_arguments=["--log-level=ERROR"],
            resources={"metadata": {"path": folder}},
            record_timing=False,
            coalesce_streams=True,
        ).execute()


def tidy(notebook: nbformat.NotebookNode) -> None:
    """Leave nothing in it that differs from machine to machine, and its pictures in a few colours, which makes them small."""
    notebook.metadata["language_info"] = {"name": "python"}
    for number, cell in enumerate(notebook.cells):
        cell["id"], cell["metadata"] = f"cell-{number}", {}
        for output in cell.get("outputs", []):
            if output.output_type == "stream":
                continue
            output["metadata"], data = {}, output["data"]
            if "image/png" in data:
                data["image/png"] = in_few_colours(base64.b64decode(data["image/png"]))
            if "image/gif" in data:
                data["image/gif"] = film_in_few_colours(base64.b64decode(data["image/gif"]))


def in_few_colours(picture: bytes) -> str:
    """A PNG again, with a palette, in base64."""
    buffer = io.BytesIO()
    shown = Image.open(io.BytesIO(picture)).convert("RGB")
    shown.quantize(COLOURS, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def film_in_few_colours(film: bytes) -> str:
    """A GIF again, in the colours of its last frame, in base64."""
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(film)) as moving:
        frames, times = [], []
        for frame in ImageSequence.Iterator(moving):
            frames.append(frame.convert("RGB"))
            times.append(frame.info["duration"])
    palette = frames[-1].quantize(FILM_COLOURS)
    first, *rest = (frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames)
    first.save(buffer, "GIF", save_all=True, append_images=rest, duration=times, loop=0, optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def cpu_seconds() -> float:
    """Of the kernels that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Execute those that are named."""
    paths = {path.stem: path for path in sorted(FOLDER.glob("*.ipynb"))}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[[], *paths], metavar="name", help=f"of {', '.join(paths)}")
    parser.add_argument("--write", action="store_true", help="replace the notebooks' outputs")
    parser.add_argument("--limit", type=float, default=180.0, help="seconds for a notebook (180)")
    options = parser.parse_args()
    failed = []
    for name in options.names or paths:
        notebook = nbformat.read(paths[name], as_version=4)
        nbformat.validate(notebook)
        if absent := missing(notebook):
            version = ".".join(map(str, sys.version_info[:2]))
            print(f"{name}: skipped, {', '.join(absent)} is not installed for Python {version}", flush=True)
            continue
        start, cpu = time.monotonic(), cpu_seconds()
        try:
            execute(notebook, options.limit)
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            print(f"{name}: failed\n{error}", flush=True)
            failed.append(name)
            continue
        print(f"{name}: {time.monotonic() - start:.0f} s, {cpu_seconds() - cpu:.0f} s of CPU", flush=True)
        if options.write:
            tidy(notebook)
            nbformat.write(notebook, paths[name])
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
