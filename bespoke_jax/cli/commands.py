"""The commands of `bespoke`."""

import importlib.metadata
import pathlib
import platform
import sys
from collections.abc import Callable, Iterable
from typing import Any

import click
import jax

from bespoke_jax import schedulers
from bespoke_jax.cli.errors import Group
from bespoke_jax.cli.evaluate import evaluate
from bespoke_jax.cli.flows import find_flow
from bespoke_jax.cli.text import describe
from bespoke_jax.compare import check_solver, yardstick
from bespoke_jax.files.atomic import check_target, write_whole
from bespoke_jax.files.export_code import LANGUAGES, export_code
from bespoke_jax.files.solver_file import load_solver, read_solver_file, save_solver
from bespoke_jax.fitting.fit import fit
from bespoke_jax.fitting.history import FitResult
from bespoke_jax.fitting.progress import progress_bar
from bespoke_jax.fitting.recipes import Recipe, frugal
from bespoke_jax.learned.families import FAMILIES, init_theta
from bespoke_jax.models.diffusers.noise import preconditioning_of
from bespoke_jax.types import KeyArray

__all__ = ["bespoke"]

# What keys are folded with: no command sees the noises of another, whatever the seeds.
_FIT, _CHECK = 0, 1
_FLOW = (
    "FLOW is the name of a shipped flow such as fashion_fmot, a *.safetensors file of save_flow, or a function of yours that "
    "returns a bespoke_jax.Flow: my_module:make_flow, with the module in the working directory or installed."
)


def _versions(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    """Print what a report of a fault should say."""
    if wanted:
        for name in ("bespoke-jax", "jax", "jaxlib", "numpy"):
            click.echo(f"{name} {importlib.metadata.version(name)}")
        click.echo(f"Python {platform.python_version()} on {platform.platform()}, {jax.devices()[0].device_kind}")
        ctx.exit()


@click.group(cls=Group, context_settings=dict(help_option_names=["-h", "--help"], max_content_width=100))
@click.option("--traceback", is_flag=True, help="Show where in the library an error was raised.")
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_versions, help="Show versions.")
def bespoke(traceback: bool) -> None:
    """Learn the ODE solver of a pre-trained flow or diffusion model.

    \b
    Learn a solver of 8 network calls for a shipped flow, and look at it:
      bespoke fit fashion_fmot --nfe 8 --budget 20000 --out solver.json
      bespoke inspect solver.json

    \b
    Is it better than the usual solvers of as many calls?
      bespoke evaluate fashion_fmot solver.json

    \b
    Take it to PyTorch:
      bespoke export solver.json --to torch --out solver.py

    The exit status is 0, 1 if `check` says that a solver does not fit, and 2 for an error.
    """


def _with_flow(command: Callable) -> Callable:
    """The argument FLOW and its options."""
    for option in (
        click.option("--guidance-scale", "-w", type=float, default=0.0, help="Guide the flow: the w of bj.guided."),
        click.option("--labels", help="Of a conditional network from a file: a class, several as 0,3,5, or all."),
        click.argument("flow"),
    ):
        command = option(command)
    command.__doc__ = f"{command.__doc__}\n\n    {_FLOW}\n    "
    return command


def _key(seed: int, purpose: int) -> KeyArray:
    return jax.random.fold_in(jax.random.key(seed), purpose)


_SOLVER_FILE = click.Path(exists=True, dir_okay=False, path_type=pathlib.Path)
_SEED = click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True)
_NOISES = click.option("--noises", type=click.IntRange(min=2), default=64, show_default=True, help="How many to try.")


@bespoke.command("fit")
@_with_flow
@click.option("--nfe", type=click.IntRange(min=1), help="Velocity evaluations per sample.")
@click.option("--steps", type=click.IntRange(min=1), help="Steps, in place of --nfe: rk2 and curve take 2 evaluations.")
@click.option("--family", type=click.Choice(list(FAMILIES)), default="table", show_default=True)
@click.option("--budget", type=click.IntRange(min=1), help="The most velocity evaluations of single samples to spend.")
@click.option("--out", type=click.Path(path_type=pathlib.Path), required=True, help="The solver file to write.")
@_SEED
@click.option("--progress/--no-progress", default=None, help="A progress bar; by default in a terminal.")
def _fit(
    flow: str,
    labels: str | None,
    guidance_scale: float,
    nfe: int | None,
    steps: int | None,
    family: str,
    budget: int | None,
    out: pathlib.Path,
    seed: int,
    progress: bool | None,
) -> None:
    """Learn a solver for FLOW and save it.

    \b
    Examples:
      bespoke fit fashion_fmot --nfe 8 --out table-n8.json
      bespoke fit my_module:make_flow --family rk2 --steps 5 --budget 20000 --out rk2-n5.json
      bespoke fit fashion_fmot_class --labels all --nfe 6 --out classes-n6.json

    Without --budget the fit runs its default recipe, some 80000 evaluations at NFE 10.
    """
    check_target(out)
    solver = init_theta(family, _num_steps(family, nfe, steps))
    found = find_flow(flow, labels, guidance_scale)
    recipe = Recipe() if budget is None else frugal(budget)
    shown = sys.stderr.isatty() if progress is None else progress
    bar = progress_bar(label=f"{family}, NFE {solver.nfe}") if shown else None
    result = fit(found, solver, _key(seed, _FIT), recipe, callback=bar)
    save_solver(out, result.theta, _info(result, flow, seed, budget), found)
    best = result.best
    click.echo(f"{out}: {family}, NFE {result.theta.nfe}, from the start {result.start!r}")
    click.echo(f"on held-out paths: PSNR {best['psnr']:.1f} dB, mean PSNR {best['mean_psnr']:.1f} dB")
    click.echo(f"cost: {result.cost} velocity evaluations, {result.network_calls} network calls")


def _num_steps(family: str, nfe: int | None, steps: int | None) -> int:
    """The steps of a solver of which one of the two is given."""
    if (nfe is None) == (steps is None):
        raise click.UsageError("wanted either --nfe or --steps.")
    if steps is not None or nfe is None:
        return steps or 0
    of_step = init_theta(family, 2).nfe // 2
    if nfe % of_step:
        raise click.BadParameter(f"wanted a multiple of {of_step} for {family}, got {nfe}.", param_hint="--nfe")
    return nfe // of_step


def _info(result: FitResult, flow: str, seed: int, budget: int | None) -> dict[str, Any]:
    """What the file says of the fit."""
    best = {name: result.best[name] for name in ("psnr", "mean_psnr")}
    said = dict(fitted_to=flow, start=result.start, evaluations=result.cost, network_calls=result.network_calls)
    return best | said | dict(seed=seed, budget=budget)


@bespoke.command("evaluate")
@_with_flow
@click.argument("solvers", nargs=-1, required=True, type=_SOLVER_FILE)
@_NOISES
@_SEED
def _evaluate(
    flow: str,
    labels: str | None,
    guidance_scale: float,
    solvers: tuple[pathlib.Path, ...],
    noises: int,
    seed: int,
) -> None:
    """Measure solver files beside dedicated solvers.

    \b
    Examples:
      bespoke evaluate fashion_fmot solver.json
      bespoke evaluate my_module:make_flow rk2-n5.json table-n10.json --noises 128

    All are measured on fresh noises of FLOW. For each NFE the PSNR of the mean RMSE and the mean PSNR are shown: of the files, of
    the three best dedicated solvers with their time grids, and of Euler and midpoint. There are about 100 dedicated solvers; all
    are tried on the first 16 noises, and the best of these measured on all.
    """
    found = find_flow(flow, labels, guidance_scale)
    loaded: dict[str, Any] = {str(path): load_solver(path, flow=found) for path in solvers}
    ruler = yardstick(found, _key(seed, _CHECK), noises)

    hidden = not sys.stderr.isatty()

    def through(items: list) -> Iterable:
        with click.progressbar(items, label="dedicated solvers", file=sys.stderr, hidden=hidden) as bar:
            yield from bar

    groups = evaluate(ruler, loaded, through)
    click.echo(f"{noises} fresh noises; their true ends are accurate to {ruler.truth.mean_psnr:.1f} dB\n")
    click.echo("\n\n".join(map(str, groups)))


@bespoke.command("check")
@_with_flow
@click.argument("solver", type=_SOLVER_FILE)
@click.option("--noises", type=click.IntRange(min=2), default=16, show_default=True, help="How many to try.")
@_SEED
@click.pass_context
def _check(
    ctx: click.Context,
    flow: str,
    labels: str | None,
    guidance_scale: float,
    solver: pathlib.Path,
    noises: int,
    seed: int,
) -> None:
    """Does a solver file serve FLOW?

    The exit status is 1 if a dedicated solver of the same NFE has the better mean PSNR.

    \b
    Examples:
      bespoke check fashion_fmot solver.json
      bespoke check my_module:make_flow solver.json && deploy solver.json

    Run it when the weights have changed, and before you trust somebody else's file. It warns if the file was learned for another
    flow.
    """
    found = find_flow(flow, labels, guidance_scale)
    checked = check_solver(found, load_solver(solver, flow=found), _key(seed, _CHECK), num_paths=noises)
    click.echo(str(checked))
    ctx.exit(0 if checked.fits else 1)


@bespoke.command("inspect")
@click.argument("solver", type=_SOLVER_FILE)
@click.option("--all", "all_numbers", is_flag=True, help="All coefficients and info, however long.")
def _inspect(solver: pathlib.Path, all_numbers: bool) -> None:
    """Show what a solver file holds.

    Family, NFE and network calls, what is known of the fit and of the flow, the times, and the coefficients.

    \b
    Examples:
      bespoke inspect solver.json
      bespoke inspect solver.json --all | less -S
    """
    click.echo(describe(solver, all_numbers))


@bespoke.command("export")
@click.argument("solver", type=_SOLVER_FILE)
@click.option("--to", type=click.Choice(LANGUAGES), required=True, help="What the code is written with.")
@click.option(
    "--out", type=click.Path(path_type=pathlib.Path), help="The file to write; by default the standard output."
)
@click.option("--network", type=_SOLVER_FILE, help="For diffusers: the scheduler_config.json of the network.")
@click.option("--scheduler", help="The scheduler of the flow: condot, cosine, vp or edm.")
def _export(
    solver: pathlib.Path, to: str, out: pathlib.Path | None, network: pathlib.Path | None, scheduler: str | None
) -> None:
    """Write a solver file as Python code.

    The code is one file with the numbers in it, and does not need this package.

    \b
    Examples:
      bespoke export solver.json --to torch > solver.py
      bespoke export solver.json --to diffusers --network scheduler_config.json --scheduler vp --out scheduler.py

    For a pipeline of diffusers give the scheduler_config.json of its network, and the scheduler of the flow that the solver was
    fitted to if it is another than the nearest to that config.
    """
    for read in (solver, network):
        if out is not None and read is not None and out.exists() and out.samefile(read):
            raise click.BadParameter(f"wanted another file than {read}, which is read.", param_hint="--out")
    chosen = None if scheduler is None else schedulers.by_name(scheduler)
    found, content = read_solver_file(solver)
    # The theta of rk1 and rk2 does not know the range that the file's times were clipped to.
    options: dict[str, Any] = dict(scheduler=chosen, time_range=content.get("time_range", (0.0, 1.0)))
    if network is not None:
        options |= _of_network(network, chosen)
    text = export_code(found, to, **options)
    if out is None:
        click.echo(text, nl=False)
    else:
        write_whole(check_target(out), text.encode())


def _of_network(path: pathlib.Path, scheduler: schedulers.Scheduler | None) -> dict[str, Any]:
    """The arguments of `export_code` that a scheduler_config.json of diffusers says."""
    found, nearest = preconditioning_of(path)
    chosen = nearest if scheduler is None else scheduler
    if found.kind == "flow":
        return dict(scheduler=chosen)
    if found.kind != "ddpm":
        raise ValueError(
            f"{path}: wanted a network trained on steps or by flow matching, got one of kind {found.kind!r}."
        )
    return dict(scheduler=chosen, prediction=found.prediction, betas=list(found.betas))
