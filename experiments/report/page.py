"""The report of a run: `report.html`, one file that contains its figures. These are kept in `figures/`, too."""

import base64
import html
import math
from typing import TypeAlias

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import bespoke_jax as bj
from bespoke_jax.flow.conditions import of_samples
from experiments.learning.learn import Learned
from experiments.learning.measure import Measured, plain_solver
from experiments.learning.settings import Job, Plan
from experiments.learning.truth import Truth
from experiments.report import plots
from experiments.run.runs import Run

__all__ = ["write", "write_table"]

_Figure: TypeAlias = tuple[str, str, Figure, str]  # file name, heading, figure, caption


def write(
    run: Run,
    flow: bj.Flow,
    plan: Plan,
    truth: Truth,
    learned: dict[Job, Learned],
    failed: dict[Job, str],
    measured: Measured,
) -> None:
    """Draw the figures and write `report.html`."""
    sections = [_results(measured.rows, truth), _calls(flow), _failures(failed)]
    figures: list[_Figure] = list(_error_figures(plan, learned, measured.rows))
    for base in sorted({job.base for job in learned}):
        jobs = {job: result.theta for job, result in learned.items() if job.base == base}
        thetas = {job.num_steps: theta for job, theta in jobs.items() if theta.has_steps}
        if thetas:
            figures.append(_knots(base, thetas))
        is_image = len(flow.event_shape) == 3 and flow.event_shape[-1] in (1, 3)
        if measured.samples:
            figures.append((_samples if is_image else _points)(base, jobs, truth, measured.samples))
        if thetas and math.prod(flow.event_shape) > 1:
            figures.append(_paths(base, thetas, flow, truth))
    for name, heading, figure, caption in figures:
        picture = base64.b64encode(run.write_figure(name, figure)).decode()
        heading = html.escape(heading)
        sections.append(
            f'<h2>{heading}</h2>\n<figure><img alt="{heading}" src="data:image/png;base64,{picture}">'
            f"<figcaption>{caption}</figcaption></figure>"
        )
    sections.append(_learning(learned, flow.calls_per_evaluation, plan.budget))
    _write_page(run, sections)


def write_table(run: Run, head: list[str], body: list[list[str]], failed: dict[Job, str], note: str) -> None:
    """Write a report that is one table, whose first column is of headings, with a note below it."""
    rows = [f"<th>{row[0]}</th>" + "".join(f"<td>{cell}</td>" for cell in row[1:]) for row in body]
    table = _table(["".join(f"<th>{cell}</th>" for cell in head)], rows)
    _write_page(run, [table, f"<p>{html.escape(note)}</p>", _failures(failed)])


def _write_page(run, sections):
    config = html.escape((run.folder / "config.json").read_text())
    sections = [*sections, f"<details><summary>Config of this run</summary><pre>{config}</pre></details>"]
    title = html.escape(f"Bespoke solvers: {run.folder.name}")
    run.write_text("report.html", _PAGE.format(title=title, body="\n".join(filter(None, sections))))


def _error_figures(plan, learned, rows):
    curves = {
        solver: tuple(zip(*((row.nfe, row.rmse, row.psnr) for row in rows if row.solver == solver), strict=True))
        for solver in dict.fromkeys(row.solver for row in rows)
    }
    yield (
        "error_against_nfe", "Error against evaluations", plots.error_against_nfe(curves),
        "Distance from the true end point, on noise that no fit has seen. Grey: base solvers. Coloured: learned ones.",
    )  # fmt: skip
    if not learned:
        return
    panels = {}
    for job, result in learned.items():
        columns = zip(*((record["iteration"], record["rmse"] or np.nan) for record in result.history), strict=True)
        panels.setdefault(job.solver, {})[job.num_steps] = tuple(columns)
    stages = () if plan.budget else plan.stages[:-1]  # a budget is spent in one stage
    begins = np.cumsum([stage.num_iterations for stage in stages]).tolist()
    yield (
        "error_against_iteration", "Error while learning", plots.error_against_iteration(panels, begins),
        "On held-out paths. Iteration 0: the start. Dotted: a new stage, which begins at the best theta so far.",
    )  # fmt: skip


def _knots(base, thetas):
    curves = {n: tuple(np.asarray(values) for values in theta.knots()) for n, theta in thetas.items()}
    caption = "Times, scales and their derivatives at the knots. Black: the identity, which is the base solver."
    return f"knots_{base}", f"Learned scale-time transformation, {base}", plots.knots(base, curves), caption


def _samples(base, jobs, truth, samples):
    rows = {"truth": truth.test.x1[: len(next(iter(samples.values())))]}
    rows |= _beside_plain(jobs, samples)
    caption = (
        "Each column starts from the same noise. Truth: Dopri5 to the config's tolerance, "
        f"{truth.test.evaluations.mean():.0f} evaluations."
    )
    return f"samples_{base}", f"Samples, {base}", plots.image_grid(rows), caption


def _beside_plain(jobs, samples):
    """Label -> samples of each learned solver, and of its base solver at the same NFE."""
    rows = {}
    for job in jobs:
        for solver in (job.solver, plain_solver(job)):
            rows[f"{solver}, NFE {job.nfe}"] = samples[solver, job.nfe]
    return rows


def _points(base, jobs, truth, samples):
    """The samples of a flow that is not one of images, as points in a plane."""
    rows = _beside_plain(jobs, samples)
    true = truth.test.x1[: len(next(iter(samples.values())))]
    size = math.prod(true.shape[1:])
    if size == 1:
        panels = {label: np.stack([true.ravel(), ends.ravel()], axis=1) for label, ends in rows.items()}
        true, axes = np.stack([true.ravel()] * 2, axis=1), ("true end", "end")
        caption = "Across: the true end from the same noise. Up: the solver's. Grey: the diagonal."
    else:
        planes = [x.reshape(len(x), size) for x in (true, *rows.values())]
        planes = planes if size == 2 else plots.principal_plane(*planes)
        true, panels = planes[0], dict(zip(rows, planes[1:], strict=True))
        kind = "coordinate" if size == 2 else "component"
        axes = f"first {kind}", f"second {kind}"
        caption = "Grey: the true ends from the same noises."
        caption += "" if size == 2 else " In the plane of their first two principal components."
    return f"samples_{base}", f"Samples, {base}", plots.points_in_plane(true, panels, axes), caption


def _paths(base, thetas, flow, truth):
    n, theta = next(iter(thetas.items()))
    x0 = jnp.asarray(truth.test.x0[: truth.test.curves.shape[1]])
    flow = of_samples(flow, slice(len(x0)))
    solved = (bj.solve(flow, solver, x0, return_path=True) for solver in (bj.init_theta(base, n), theta))
    by_noise = [np.moveaxis(np.asarray(states), 1, 0) for states in (truth.test.curves, *solved)]
    names = ("truth", base, f"{base}-bespoke")
    panels = [dict(zip(names, plots.principal_plane(*paths), strict=True)) for paths in zip(*by_noise, strict=True)]
    caption = "Each panel is a noise, in the plane of its paths' first two principal components. A mark is a step."
    return f"paths_{base}", f"Sampling paths, {base}, NFE {theta.nfe}", plots.paths_in_plane(base, panels), caption


def _results(rows, truth):
    solvers = list(dict.fromkeys(row.solver for row in rows))
    cells = {(row.nfe, row.solver): row for row in rows}
    body = []
    for nfe in sorted({row.nfe for row in rows}):
        best = min((row for row in rows if row.nfe == nfe), key=lambda row: row.rmse)
        line = f"<th>{nfe}</th>"
        for row in (cells.get((nfe, solver)) for solver in solvers):
            mark = ' class="best"' if row is best else ""
            line += f"<td{mark}>{row.rmse:.4f}</td><td{mark}>{row.psnr:.2f}</td>" if row else "<td></td><td></td>"
        body.append(line)
    head = [
        '<th rowspan="2">NFE</th>' + "".join(f'<th colspan="2">{solver}</th>' for solver in solvers),
        "<th>RMSE</th><th>PSNR</th>" * len(solvers),
    ]
    return (
        f"{_table(head, body)}\n<p>Means over {len(truth.test.x0)} fresh noises; PSNR in dB for data in [-1, 1]. "
        f"The true paths took {truth.test.evaluations.mean():.0f} evaluations each. "
        "Standard errors and means of the samples' own PSNR: results_detail.csv.</p>"
    )


def _calls(flow):
    calls = flow.calls_per_evaluation
    return (
        f"<p>With guidance, each evaluation is {calls} network calls: NFE and costs count evaluations.</p>"
        if calls > 1
        else ""
    )


def _failures(failed):
    return "".join(f'<p class="failed"><b>{job.name} failed.</b> {html.escape(why)}</p>' for job, why in failed.items())


def _learning(learned, calls, budget):
    body = [
        f"<th>{job.name}</th><td>{job.nfe}</td><td>{result.theta.num_parameters}</td><td>{result.cost:,}</td>"
        f"<td>{calls * result.cost:,}</td>"
        for job, result in learned.items()
    ]
    return (
        "<h2>What learning cost</h2>"
        + _table(["<th>solver</th><th>NFE</th><th>parameters</th><th>evaluations</th><th>network calls</th>"], body)
        + "\n<p>Velocity evaluations of single samples; "
        + ("true ends included" if budget else "the shared true paths are counted for each solver")
        + ".</p>"
    )


def _table(head: list[str], body: list[str]) -> str:
    top, rest = ("".join(f"<tr>{line}</tr>" for line in lines) for lines in (head, body))
    return f"<table><thead>{top}</thead><tbody>{rest}</tbody></table>"


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }}
h1 {{ font-size: 1.6rem; }} h2 {{ font-size: 1.15rem; margin-top: 2.2rem; }}
figure {{ margin: 0; overflow-x: auto; }} img {{ max-width: 100%; }} figcaption, p {{ color: #555; font-size: .92rem; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; display: block; overflow-x: auto; }}
th, td {{ padding: .25rem .7rem; border-bottom: 1px solid #e5e5e5; font-weight: normal; text-align: right; }}
th, td {{ white-space: nowrap; }}
thead th {{ color: #555; text-align: center; }} .best {{ font-weight: 600; }} .failed {{ color: #a40000; }}
pre {{ background: #f6f6f6; padding: 1rem; overflow-x: auto; font-size: .85rem; }}
</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""
