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
from experiments.learning.measure import BASE_SOLVERS, Measured, plain_solver
from experiments.learning.rivals import Rivals
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
    rivals: Rivals,
    seconds: dict[Job, float | None],
) -> None:
    """Draw the figures and write `report.html`."""
    best = {row.nfe: row for row in rivals.rows}
    sections = [_results(measured.rows, best, truth), _rivals(rivals), _calls(flow), _failures(failed)]
    is_image = len(flow.event_shape) == 3 and flow.event_shape[-1] in (1, 3)
    figures: list[_Figure] = list(_error_figures(plan, learned, measured.rows, best))
    if is_image and measured.samples and learned:
        figures.insert(1, _image_errors(learned, truth, measured.samples, rivals))
    for base in sorted({job.base for job in learned}):
        jobs = {job: result.theta for job, result in learned.items() if job.base == base}
        thetas = {job.num_steps: theta for job, theta in jobs.items() if theta.has_steps}
        if thetas:
            figures.append(_knots(base, thetas))
        else:
            figures.append(_coefficients(base, jobs))
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
    sections.append(_learning(learned, flow.calls_per_evaluation, plan.budget, seconds))
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


def _error_figures(plan, learned, rows, best):
    lines = {solver: {row.nfe: row for row in rows if row.solver == solver} for solver in _names(rows)}
    lines |= {"best dedicated": best} if best else {}
    yield (
        "error_against_nfe", "Error against evaluations", plots.error_against_nfe(lines),
        "On noise that no fit has seen: PSNR of the mean RMSE, and mean of the samples' own PSNR. Bands: one standard error. "
        "Grey: base solvers. Black: the best dedicated one. Coloured: learned ones.",
    )  # fmt: skip
    if not learned:
        return
    panels = {}
    for job, result in learned.items():
        panels.setdefault(job.solver, {})[f"n = {job.num_steps}"] = result.history
    stages = () if plan.budget else plan.stages[:-1]  # a budget is spent in one stage
    begins = np.cumsum([stage.num_iterations for stage in stages]).tolist()
    yield (
        "error_against_iteration", "Error while learning", plots.error_against_iteration(panels, begins),
        "On held-out paths. Iteration 0: the start. Dotted: a new stage, which begins at the best theta so far.",
    )  # fmt: skip


def _names(rows):
    return list(dict.fromkeys(row.solver for row in rows))


_SHOWN_NFE = 8  # or the nearest to it
_SHOWN_COLUMNS = 6


def _image_errors(learned, truth, samples, rivals):
    nfe = min((job.nfe for job in learned), key=lambda nfe: (abs(nfe - _SHOWN_NFE), nfe))
    rows = {solver: ends for (solver, n), ends in samples.items() if n == nfe}
    rows |= {row.solver: rivals.samples[nfe] for row in rivals.rows if row.nfe == nfe}
    rows = {solver: ends[:_SHOWN_COLUMNS] for solver, ends in rows.items()}
    true = truth.test.x1[: len(next(iter(rows.values())))]
    errors = {solver: float(bj.metrics.rmse(ends, true, 3).mean()) for solver, ends in rows.items()}
    rows = {solver: rows[solver] for solver in sorted(rows, key=lambda solver: -errors[solver])}
    figure = bj.plots.image_errors(rows, true)
    caption = (
        "Left: each column starts from the same noise. Right: what the solver adds to the true sample (red) or takes from it "
        "(blue), all on one scale, with the PSNR over these samples. The best is at the bottom."
    )
    return f"errors_at_{nfe}", f"Samples at NFE {nfe} and their errors", figure, caption


def _knots(base, thetas):
    caption = "Times, scales and their derivatives at the knots. Black: the identity, which is the base solver."
    figure = bj.plots.knots({f"n = {n}": theta.knots() for n, theta in thetas.items()})
    return f"knots_{base}", f"Learned scale-time transformation, {base}", figure, caption


def _coefficients(base, jobs):
    job, solver = min(jobs.items(), key=lambda item: abs(item[0].nfe - _SHOWN_NFE))
    caption = (
        "State i is a_i times the noise, plus c_i times an image if there is one, plus the sum of b_ij times the velocity of "
        "call j, at time t_j."
    )
    return f"numbers_{base}", f"Learned numbers, {base}, NFE {job.nfe}", bj.plots.coefficients(solver), caption


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
        caption = "Across: the true end from the same noise. Up: the solver's. Grey: the diagonal."
    else:
        caption = "Grey: the true ends from the same noises."
        caption += "" if size == 2 else " In the plane of their first two principal components."
    return f"samples_{base}", f"Samples, {base}", bj.plots.points(rows, true), caption


def _paths(base, thetas, flow, truth):
    n, theta = next(iter(thetas.items()))
    x0 = jnp.asarray(truth.test.x0[: truth.test.curves.shape[1]])
    flow = of_samples(flow, slice(len(x0)))
    states = {"truth": truth.test.curves}
    for name, solver in ((base, bj.init_theta(base, n)), (f"{base}-bespoke", theta)):
        # What `bj.solve(..., return_path=True)` returns, by programs that all of these solvers share.
        trace = bj.adjoint.run(flow, solver.unrolled(), x0)
        states[name] = np.stack([*trace.states[:: theta.nfe // n], trace.x1])
    where = "" if math.prod(flow.event_shape) == 2 else ", in the plane of its paths' first two principal components"
    caption = f"Each panel is a noise{where}. A mark is a step."
    return f"paths_{base}", f"Sampling paths, {base}, NFE {theta.nfe}", plots.paths(states), caption


def _results(rows, best, truth):
    learned = [row for row in rows if row.solver not in BASE_SOLVERS]
    body = []
    for nfe in sorted({row.nfe for row in rows}):
        here = [row for row in (*rows, *filter(None, [best.get(nfe)])) if row.nfe == nfe]
        others = [row for row in here if row not in learned]
        for i, row in enumerate(sorted(here, key=lambda row: row.rmse)):
            gain = ""
            if row in learned:
                psnr, mean_psnr = (max(getattr(other, name) for other in others) for name in ("psnr", "mean_psnr"))
                gain = f"{row.psnr - psnr:+.1f} ({row.mean_psnr - mean_psnr:+.1f}) dB"
            cells = (
                row.solver, f"{row.rmse:.4f} \u00b1 {row.standard_error:.4f}", f"{row.psnr:.2f}",
                f"{row.mean_psnr:.2f} \u00b1 {row.mean_psnr_standard_error:.2f}", gain,
            )  # fmt: skip
            mark = ' class="best"' if row in learned else ""
            line = f"<th>{'' if i else nfe}</th>" + "".join(f"<td{mark}>{cell}</td>" for cell in cells)
            body.append(line)
    head = ["NFE", "solver", "RMSE", "PSNR", "mean PSNR", "over the best not learned"]
    return (
        f"{_table([''.join(f'<th>{cell}</th>' for cell in head)], body)}\n"
        f"<p>Means over {len(truth.test.x0)} fresh noises \u00b1 one standard error, the best first; learned solvers bold. PSNR: "
        "in dB, of the mean RMSE, for data in [-1, 1]; mean PSNR: the mean of the samples' own. Last column: by the one (by the "
        f"other). The true paths took {truth.test.evaluations.mean():.0f} evaluations each.</p>"
    )


def _rivals(rivals):
    if not rivals.rows:
        return ""
    tried = f"{rivals.num_tried} dedicated solvers that often win were tried on {rivals.num_noises} of the noises"
    return (
        f"<p>At each NFE, up to {tried}, and the best of them was measured on all: {rivals.evaluations:,} evaluations, which are "
        "not part of what learning cost. experiments.evaluate tries all dedicated solvers on every time grid.</p>"
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


def _learning(learned, calls, budget, seconds):
    body = []
    for job, result in learned.items():
        took = seconds.get(job)
        cells = (
            f"{job.nfe}", f"{result.theta.num_parameters}", f"{result.cost:,}", f"{calls * result.cost:,}",
            "" if took is None else f"{took:.0f}",
        )  # fmt: skip
        body.append(f"<th>{job.name}</th>" + "".join(f"<td>{cell}</td>" for cell in cells))
    head = ["solver", "NFE", "parameters", "evaluations", "network calls", "seconds"]
    return (
        "<h2>What learning cost</h2>"
        + _table(["".join(f"<th>{cell}</th>" for cell in head)], body)
        + "\n<p>Velocity evaluations of single samples; "
        + ("true ends included" if budget else "the shared true paths are counted for each solver")
        + ". Seconds: elapsed, with compiling and "
        + ("the true ends" if budget else "without the true paths")
        + ", which the first fit has more of than the others; none for a fit that was interrupted.</p>"
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
