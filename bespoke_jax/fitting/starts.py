"""Where a fit begins: the starts that a family has, tried on true paths, and the best one kept."""

from typing import Any, NamedTuple

import jax
import numpy as np

from bespoke_jax.fitting.gauss_newton import evaluate, values_of_ends
from bespoke_jax.fitting.loss import Loss
from bespoke_jax.fitting.losses_of_ends import Endpoint
from bespoke_jax.fitting.progress import Say, quiet
from bespoke_jax.fitting.stages import Stage
from bespoke_jax.flow.conditions import of_samples
from bespoke_jax.flow.flow import Flow
from bespoke_jax.flow.sharding import spread
from bespoke_jax.run.adjoint import ends_of_each
from bespoke_jax.run.paths import Paths
from bespoke_jax.run.rows import cut
from bespoke_jax.solver import LearnedSolver
from bespoke_jax.types import KeyArray

__all__ = ["Block", "Start", "best_start", "choose", "cost_of_choice", "num_raced", "race", "start_groups"]


def start_groups(flow: Flow, theta: LearnedSolver) -> list[dict[str, LearnedSolver]]:
    """The starts of a fit for this flow, by name, in groups of one structure: the solver itself, as "given", is in the first."""
    groups = [{"given": theta} | theta.starts(flow), theta.rivals(flow)]
    return [group for group in groups if group]


NUM_START_PATHS = 32
"""Paths on which the best few starts, which differ by decibels, are compared."""

_FIRST, _KEPT = 4, 6


def best_start(
    flow: Flow,
    thetas: dict[str, LearnedSolver],
    paths: Paths,
    loss: Loss | None = None,
    num_paths: int = NUM_START_PATHS,
    batch_size: int | None = None,
    say: Say = quiet,
    together: bool = False,
) -> tuple[str, int]:
    """The name of the best start, and the velocity evaluations spent on finding it.

    Best is the one of the least loss, one of ends and `Endpoint` by default, on the first `num_paths` of `paths`, of which
    `batch_size` go through the network at a time; None for all.
    Many starts are reduced to a few on four of those paths first. `say` is told which is being tried. If `together`, as many
    starts as fill a batch share it, each sample at its own time, with the programs of second-order updates and no others.

    Examples:
        >>> import jax, bespoke_jax as bj
        >>> flow = bj.analytic.gaussian([1.0, 0.0], 0.1, scheduler=bj.schedulers.VariancePreserving())
        >>> paths = bj.ground_truth(flow, flow.noise(jax.random.key(0), (16,)))
        >>> best_start(flow, start_groups(flow, bj.init_theta("rk2", num_steps=4))[0], paths)[0] != "given"
        True
    """
    names, spent, loss = list(thetas), 0, loss or Endpoint()
    tables = {name: theta.unrolled() for name, theta in thetas.items()} if together else {}
    of_one_structure = len(set(map(jax.tree.structure, tables.values()))) == 1
    together = of_one_structure and all(table.corrections is None for table in tables.values())
    for count, keep in _rounds(len(names), num_paths):
        few, values, batch = min(count, paths.num_paths), [], batch_size if together else None
        size = _at_once(few, batch)
        for first in range(0, len(names), size):
            last = min(first + size, len(names))
            some = f"start {last}" if size == 1 else f"starts {first + 1} to {last}"
            say(f"trying {some} of {len(names)} on {few} paths")
            if size == 1:
                theta = thetas[names[first]]
                values.append(float(evaluate(loss, flow, theta, paths, batch_size=batch_size, count=few)))
            else:
                alike = [tables[name] for name in names[first:last]]
                values += _values_of_each(loss, flow, alike, paths, few, batch)
        spent += int(_samples(len(names), few, batch) * thetas[names[0]].evaluations(flow))
        order = np.argsort(np.where(np.isfinite(values), values, np.inf), kind="stable")
        names = [names[i] for i in order[:keep]]
    return names[0], spent


def _values_of_each(loss, flow, tables, paths, few, batch_size) -> list[float]:
    """The losses of the tables on the first paths, in one batch; the last table fills what they leave of it."""
    ((some, x0, x1),) = paths.chunks(flow, count=few)
    rows = np.resize(np.arange(few), batch_size)
    some, x0, x1 = of_samples(some, rows), cut(flow, x0, rows), spread(flow, cut(flow, x1, rows))
    x = ends_of_each(some, [tables[min(row // few, len(tables) - 1)] for row in range(batch_size)], x0)
    return np.mean(values_of_ends(loss, some, x, x1)[: few * len(tables)].reshape(-1, few), axis=1).tolist()


def _at_once(few, batch_size):
    """How many starts fill a batch, on so many paths."""
    return max(1, (batch_size or 0) // few)


def _samples(num_starts, few, batch_size):
    """The samples that so many starts take on so many paths: whole batches where several share one."""
    size = _at_once(few, batch_size)
    return num_starts * few if size == 1 else -(-num_starts // size) * batch_size


class Start(NamedTuple):
    """Where a fit begins.

    Attributes:
        name, theta: the start.
        blocks: the first updates from there, up to each look at the held-out paths, if they are done.
        evaluations: velocity evaluations spent on the choice, without those of `blocks`.
    """

    name: str
    theta: LearnedSolver
    blocks: "list[Block]"
    evaluations: int


def choose(
    flow: Flow,
    groups: list[dict[str, LearnedSolver]],
    paths: Paths,
    stages: tuple[Stage, ...],
    key: KeyArray,
    num_paths: int = NUM_START_PATHS,
    say: Say = quiet,
) -> Start:
    """The start of a fit: the best one of the only group, or the winner of a race between the best of each.

    Args:
        flow, paths, stages, key: those of the fit.
        groups: from `start_groups`. A single start is taken untried.
        num_paths: on how many of the paths the best few are compared.
        say: told what is being tried.
    """
    if len(groups) == len(groups[0]) == 1:
        ((name, theta),) = groups[0].items()
        return Start(name, theta, [], 0)
    loss = next((_loss(stage) for stage in stages if stage.is_of_ends), Endpoint())
    chunk, together = stages[0].samples_at_once, stages[0].is_second_order and stages[0].is_of_ends
    found = [best_start(flow, group, paths, loss, num_paths, chunk, say, together) for group in groups]
    racers = {name: group[name] for (name, _), group in zip(found, groups, strict=True)}
    spent = sum(evaluations for _, evaluations in found)
    if len(racers) == 1:
        ((name, theta),) = racers.items()
        return Start(name, theta, [], spent)
    name, blocks, raced = race(flow, racers, paths, stages[0], key, num_paths, say)
    return Start(name, racers[name], blocks, spent + raced)


class Block(NamedTuple):
    """What `Stage.update` returns: the updates between two looks at the held-out paths.

    Attributes:
        theta, opt_state: the solver and the optimiser's state after them.
        losses: [updates].
        evaluations: velocity evaluations spent.
    """

    theta: LearnedSolver
    opt_state: Any
    losses: np.ndarray
    evaluations: int


def race(
    flow: Flow,
    racers: dict[str, LearnedSolver],
    paths: Paths,
    stage: Stage,
    key: KeyArray,
    num_paths: int = NUM_START_PATHS,
    say: Say = quiet,
) -> tuple[str, list[Block], int]:
    """The racer that the first updates of a fit make best: (its name, its updates, evaluations spent on all but these).

    Solvers of different structure end where their start does not tell. Each makes the first twelve updates of `stage`, or more
    up to the next look, and the one of the least loss on the first `num_paths` paths wins. The fit goes on from there.

    Args:
        flow, paths, key: those of the fit.
        racers: by name.
        stage: the first stage of the fit.
        num_paths: on how many of the paths they are compared.
        say: told which racer makes its updates.

    Examples:
        >>> import jax, bespoke_jax as bj
        >>> flow = bj.analytic.gaussian([1.0, 0.0], 0.1)
        >>> paths = bj.ground_truth(flow, flow.noise(jax.random.key(0), (16,)))
        >>> racers = {n: bj.LearnedTable.of(s(4)) for n, s in {"euler": bj.classic.euler, "rk4": bj.classic.rk4}.items()}
        >>> name, blocks, spent = race(flow, racers, paths, bj.Stage(num_iterations=2), jax.random.key(0))
        >>> [len(block.losses) for block in blocks], bool(spent > blocks[0].evaluations)
        ([2], True)
    """
    few = min(num_paths, paths.num_paths)
    blocks, values, spent = {}, {}, 0
    for name, theta in racers.items():
        updates = num_raced(stage.num_iterations, stage.validate_every)
        say(f"{updates} updates from start {name}, one of {len(racers)} that race")
        blocks[name] = _first_blocks(flow, theta, paths, stage, key)
        last = blocks[name][-1].theta
        good, chunk = np.all(np.isfinite(last.raw)), stage.samples_at_once
        value = float(evaluate(_loss(stage), flow, last, paths, batch_size=chunk, count=few)) if good else np.inf
        values[name] = value if np.isfinite(value) else np.inf
        spent += int(few * last.evaluations(flow)) + sum(block.evaluations for block in blocks[name])
    winner = min(values, key=values.__getitem__)
    return winner, blocks[winner], spent - sum(block.evaluations for block in blocks[winner])


_RACE = 12
"""Updates, at least, after which structures are compared: after four the order is often not yet that of the end."""


def num_raced(num_iterations: int, validate_every: int) -> int:
    """The updates that each racer makes: at least twelve, up to a look, or all of them.

    Examples:
        >>> num_raced(64, 8), num_raced(32, 4), num_raced(10, 4)
        (16, 12, 10)
    """
    return min(num_iterations, -(-_RACE // validate_every) * validate_every)


def _first_blocks(flow, theta, paths, stage, key) -> list[Block]:
    """The updates of a racer."""
    total, blocks = num_raced(stage.num_iterations, stage.validate_every), []
    opt_state, directions = stage.optimizer.init(theta.raw), theta.first_directions(flow)
    for first in range(0, total, stage.validate_every):
        count = min(stage.validate_every, total - first)
        blocks.append(Block(*stage.update(flow, theta, opt_state, paths, key, first, count, directions)))
        theta, opt_state = blocks[-1].theta, blocks[-1].opt_state
        if not np.all(np.isfinite(blocks[-1].losses)):
            break
    return blocks


def _loss(stage: Stage) -> Loss:
    return stage.loss if stage.is_of_ends and isinstance(stage.loss, Loss) else Endpoint()


def cost_of_choice(num_starts: int, nfe: int, num_paths: int = NUM_START_PATHS, batch_size: int | None = None) -> int:
    """Velocity evaluations that `choose` spends on this many starts of `nfe` evaluations, if there are enough paths.

    Those of one batch are tried together where it holds several, and the last batch is filled.

    Examples:
        >>> cost_of_choice(num_starts=11, nfe=10, num_paths=16), cost_of_choice(num_starts=99, nfe=10, batch_size=16)
        (1760, 5920)
    """
    spent, left = 0, num_starts
    for count, keep in _rounds(num_starts, num_paths):
        spent, left = spent + _samples(left, count, batch_size) * nfe, keep
    return spent


def _rounds(num_starts, num_paths):
    """(paths to compare on, starts to keep) of each round."""
    last = (num_paths, 1)
    return ((_FIRST, _KEPT), last) if num_starts > 2 * _KEPT else (last,)
