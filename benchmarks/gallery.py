"""The pictures of the docs, of shipped solvers: `python -m benchmarks.gallery [--out FOLDER] [picture ...]`.

Pictures, all by default:

- a shipped flow, such as fashion_fmot: two files, the samples of its solvers beside the exact ones from the same noises, with
  their differences; and PSNR against calls, with the times of its tables;
- clothes: a film of Euler's method and the shipped table of 4 calls on fashion_fmot, beside the exact paths;
- ring: the same of the flow of docs/index.md and a table of 4 calls that is learned for it, which takes 20 seconds.

Prints PSNR in dB, of the mean RMSE (mean over samples), on 70 noises that no fit has seen; needs matplotlib.
"""

import argparse
import io
import pathlib
import re

import jax
import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageSequence

import bespoke_jax as bj
from bespoke_jax.run.scores import score

CALLS = (3, 4, 5, 6, 8, 10)
KEY = jax.random.key(20_260_101)
NUM, SHOWN = 70, 7  # noises, seven of each class; and those in a picture
DOTS, FILM_DOTS = 70, 90  # an inch: a pixel of a sample is two of the picture


def load(name: str, num: int) -> bj.Flow:
    """A shipped flow for `num` noises, of each class in turn if it has any."""
    return bj.models.load_flow(name, labels=[i % 10 for i in range(num)] if name.endswith("_class") else None)


def solvers(name: str) -> dict[str, dict]:
    """Kind -> calls -> solver: the plain ones and those that come with the flow."""
    return {
        "euler": {nfe: bj.classic.euler(nfe) for nfe in CALLS},
        "midpoint": {nfe: bj.classic.midpoint(nfe) for nfe in CALLS if nfe % 2 == 0},
        "rk2-bespoke": {nfe: bj.models.shipped_solver(name, "rk2", nfe // 2) for nfe in (8, 10)},
        "table": {nfe: bj.models.shipped_solver(name, "table", nfe) for nfe in CALLS},
    }


def save(figure: Figure, path: pathlib.Path):
    """As a PNG of few colours: greys, and those of differences and of lines."""
    differences = matplotlib.colormaps["RdBu_r"](np.linspace(0, 1, 21))[:, :3]
    greys = np.repeat(np.linspace(0, 1, 28)[:, None], 3, axis=1)
    lines = [matplotlib.colors.to_rgb(colour) for colour in ("#0072B2", "#009E73", "#cfe3ef", "#cdebe2")]
    palette = Image.new("P", (1, 1))
    palette.putpalette((255 * np.concatenate([greys, differences, lines])).round().astype(np.uint8).tobytes())
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=DOTS)
    picture = Image.open(buffer).convert("RGB").quantize(palette=palette, dither=Image.Dither.NONE)
    picture.save(path, optimize=True)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB", flush=True)


def draw_times(axes, tables: dict):
    """When each table calls the network: a line for each, noise at the left."""
    for row, table in enumerate(tables.values()):
        t = np.asarray(bj.to_table(table).t)
        axes.plot([0, 1], [row, row], color="0.85", linewidth=1, zorder=1)
        axes.plot(t, np.full(len(t), row), "o", color="#009E73", markersize=5)
    axes.set(
        xlabel="t, from noise to data", yticks=range(len(tables)), ylim=(-0.5, len(tables) - 0.5), xlim=(-0.03, 1.03)
    )
    axes.set_yticklabels([f"table, {nfe}" for nfe in tables])
    axes.spines[["left", "right", "top"]].set_visible(False)


def gallery(name: str, folder: pathlib.Path):
    """Both files of a shipped flow."""
    flow = load(name, NUM)
    x0 = flow.noise(KEY, (NUM,))
    truth = bj.ground_truth(flow, x0, ends_only=True).x1
    ends = {kind: {nfe: bj.solve(flow, one, x0) for nfe, one in each.items()} for kind, each in solvers(name).items()}
    scores = {
        kind: {nfe: score(kind, np.asarray(flow.rmse(x1, truth)), 2.0) for nfe, x1 in each.items()}
        for kind, each in ends.items()
    }
    for kind, each in scores.items():
        figures = "  ".join(f"{nfe}: {found.psnr:.1f} ({found.mean_psnr:.1f})" for nfe, found in each.items())
        print(f"{name}  {kind:12} {figures}", flush=True)

    rows = {f"{kind}, {nfe}": ends[kind][nfe][:SHOWN] for kind, nfe in (("euler", 8), ("midpoint", 8))}
    rows |= {f"table, {nfe}": ends["table"][nfe][:SHOWN] for nfe in CALLS}
    save(bj.plots.image_errors(rows, truth[:SHOWN], limit=0.5), folder / f"gallery_{name}.png")

    figure = Figure(figsize=(9.6, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    bj.plots.error_against_calls(scores, left)
    draw_times(right, solvers(name)["table"])
    save(figure, folder / f"gallery_{name}_calls.png")


def film(states: dict, path: pathlib.Path, seconds: float):
    """Write a GIF of solves, of sixteen colours: those of its last frame."""
    bj.plots.animation(states, seconds=seconds).save(path, writer="pillow", dpi=FILM_DOTS)
    with Image.open(path) as moving:
        frames = [frame.convert("RGB") for frame in ImageSequence.Iterator(moving)]
        times = [frame.info["duration"] for frame in ImageSequence.Iterator(moving)]
    palette = frames[-1].quantize(16)
    first, *rest = (frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames)
    first.save(path, save_all=True, append_images=rest, duration=times, loop=0, optimize=True)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB", flush=True)


def clothes(folder: pathlib.Path):
    """Euler's method and a table of 4 calls on the shipped flow."""
    flow, num = bj.models.load_flow("fashion_fmot"), 12
    x0 = flow.noise(KEY, (num,))
    paths = bj.ground_truth(flow, x0)
    two = {
        "Euler, 4 calls": bj.classic.euler(4),
        "learned, 4 calls": bj.models.shipped_solver("fashion_fmot", "table", 4),
    }
    states = {name: bj.solve(flow, solver, x0, return_path=True) for name, solver in two.items()}
    film(states | {"exact path": paths.at(np.linspace(0, 1, 13))}, folder / "clothes.gif", 4)


def ring(folder: pathlib.Path):
    """Euler's method and a table of 4 calls on the flow of docs/index.md."""
    page = (pathlib.Path(__file__).parents[1] / "docs" / "index.md").read_text()
    made: dict = {}
    exec(re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)[0], made)
    flow = made["make_flow"]()
    learned = bj.fit(flow, bj.init_theta("table", num_steps=4), jax.random.key(0)).theta
    x0 = flow.noise(KEY, (400,))
    two = {"Euler, 4 calls": bj.classic.euler(4), "learned, 4 calls": learned}
    states = {name: bj.solve(flow, solver, x0, return_path=True) for name, solver in two.items()}
    film(states | {"exact path": bj.ground_truth(flow, x0).at(np.linspace(0, 1, 17))}, folder / "ring.gif", 4)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    pictures = {name: lambda folder, name=name: gallery(name, folder) for name in bj.models.SHIPPED}
    pictures |= {"clothes": clothes, "ring": ring}
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("docs/images"))
    parser.add_argument("picture", nargs="*", choices=[[], *pictures])
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.picture or pictures:
        pictures[name](options.out)


if __name__ == "__main__":
    main()
