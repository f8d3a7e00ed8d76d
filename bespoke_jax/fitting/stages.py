"""A stage of a fit: a loss, an optimiser, and how many updates."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from jaxtyping import Int

from bespoke_jax.checks import check_count, check_flag, check_number
from bespoke_jax.fitting import gauss_newton, keys
from bespoke_jax.fitting.averaging import Forgetting, PowerLaw, Recent
from bespoke_jax.fitting.keys import fold_in
from bespoke_jax.fitting.levenberg_marquardt import LevenbergMarquardt
from bespoke_jax.fitting.loss import Loss
from bespoke_jax.fitting.losses import LOSSES, named
from bespoke_jax.fitting.relax import relaxed
from bespoke_jax.flow.conditions import of_paths, shuffled
from bespoke_jax.flow.flow import Flow
from bespoke_jax.flow.sharding import everywhere_over, gather, mesh_of, spread_over
from bespoke_jax.run.paths import Paths
from bespoke_jax.solver import LearnedSolver
from bespoke_jax.types import KeyArray

__all__ = ["DAMPING_FALLS", "DEFAULT_STAGES", "SMALL_STEPS", "Stage", "untested_steps"]

SMALL_STEPS = LevenbergMarquardt(damping=1e-3, scaling=0.5, tries=1, averaging=Forgetting(matrix=0.9, gradient=0.85))
"""Levenberg-Marquardt for many steps on few paths each, with a memory of the quadratics of some hundred earlier paths.

A quadratic holds only near where it was taken, so many steps gain more than accurate ones. For few steps on many paths, or on
always the same paths, use `LevenbergMarquardt()`.
"""

_UNTESTED_STEPS = dataclasses.replace(SMALL_STEPS, tries=0, damping=3e-2, averaging=PowerLaw(matrix=2.0, gradient=3.0))
DAMPING_FALLS = 1000.0
"""The factor by which the damping of `untested_steps` falls over a stage."""


def untested_steps(num_iterations: int) -> LevenbergMarquardt:
    """Small steps for a stage of so many updates, each taken without a look at what it does to the loss.

    A look would cost a quarter of an update, and a few paths do not decide a step's length: the damping falls a thousandfold over
    the stage instead. The average over a growing memory gains as much as twice the steps. Found on the shipped flows with rk2 of
    five steps; benchmarks/README.md has the results.

    Examples:
        >>> untested_steps(64).tries
        0
    """
    return _UNTESTED_STEPS.falling(DAMPING_FALLS, num_iterations)


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of a fit. Hashable, so that equal stages share compiled programs.

    Attributes:
        loss: a loss as a value, such as `losses.RmseBound(lipschitz=2.0)` or a `losses.Distance` of your own; a name in
            `losses.LOSSES`, which stands for that loss with its usual options; or any function `loss(flow, solver, paths) ->
            scalar`, which only first-order optimisers take.
        num_iterations: number of updates.
        optimizer: `SMALL_STEPS`, another `LevenbergMarquardt`, or an optax transformation.
        batch_size: paths per update, drawn anew for each, or with a memory of `Recent` batches taken in turn.
        chunk_size: how many of them go through the network together; a first-order optimiser takes the whole batch. The first
            stage's size also serves for true paths and those held out, so that the network is compiled once.
        probes: random cotangents per path for the Gauss-Newton matrix (`gauss_newton.linearise`).
        keep_activations: whether Levenberg-Marquardt on a loss of ends keeps the network's activations at all evaluations of a
            chunk. An update then costs a pass less and NFE times the memory.
        validate_every: updates between two looks at the held-out paths. A look costs about as much as an update. The updates of
            a first-order optimiser between two looks run in one compiled call.
        noise_radius: how far each noise of a batch may move, as a root mean square over its numbers, to where the solver ends
            nearer the true end (`relax.relaxed`): the relaxed target of LD3. For Levenberg-Marquardt on a loss of ends. It costs
            three passes more, and a compilation of the network for each solver.
    """

    loss: str | Loss | Callable = "endpoint"
    num_iterations: int = 64
    optimizer: Any = SMALL_STEPS
    batch_size: int = 16
    chunk_size: int = 16
    probes: int = 1
    keep_activations: bool = False
    validate_every: int = 8
    noise_radius: float = 0.0

    def __post_init__(self):
        object.__setattr__(self, "loss", named(self.loss, "Stage.loss"))
        for name in ("num_iterations", "batch_size", "chunk_size", "probes", "validate_every"):
            check_count(f"Stage.{name}", getattr(self, name))
        check_flag("Stage.keep_activations", self.keep_activations)
        check_number("Stage.noise_radius", self.noise_radius, 0)
        if not (hasattr(self.optimizer, "init") and hasattr(self.optimizer, "update")):
            raise TypeError(
                f"Stage.optimizer: wanted LevenbergMarquardt or an optax transformation, got {self.optimizer!r}."
            )
        if self.is_second_order and not isinstance(self.loss, Loss):
            raise ValueError(
                f"Stage.optimizer: wanted a first-order one, such as optax.adam(1e-2), for the loss {self.name!r}, got "
                f"Levenberg-Marquardt, which takes {sorted(LOSSES)} or a losses.Distance."
            )

        if self.noise_radius and not (self.is_second_order and self.is_of_ends):
            raise ValueError(
                f"Stage.noise_radius: wanted 0 unless Levenberg-Marquardt minimises a loss of ends, got {self.noise_radius} for "
                f"{self.name!r}."
            )

    @property
    def name(self) -> str:
        """The loss's name."""
        return getattr(self.loss, "name", getattr(self.loss, "__name__", "loss"))

    @property
    def blocks(self) -> list[int]:
        """The updates between one look at the held-out paths and the next.

        Examples:
            >>> Stage(num_iterations=20, validate_every=8).blocks
            [8, 8, 4]
        """
        firsts = range(0, self.num_iterations, self.validate_every)
        return [min(self.validate_every, self.num_iterations - first) for first in firsts]

    @property
    def is_second_order(self) -> bool:
        """Whether the optimiser is Levenberg-Marquardt."""
        return isinstance(self.optimizer, LevenbergMarquardt)

    @property
    def takes_turns(self) -> bool:
        """Whether the updates take the paths in turn, in one order: a memory of `Recent` batches then holds each path once."""
        return self.is_second_order and isinstance(self.optimizer.averaging, Recent)

    @property
    def is_of_ends(self) -> bool:
        """Whether the loss compares end points and so needs no more of the paths; False for a function of your own."""
        return getattr(self.loss, "of_ends", False)

    @property
    def samples_at_once(self) -> int:
        """Samples that go through the network together in an update, whose programs are compiled for this number."""
        return min(self.batch_size, self.chunk_size)

    @property
    def figure(self) -> str:
        """The figure on held-out paths nearest to the loss: "mean_psnr" for a mean of logarithms or fourth roots, else "psnr".

        A mean of fourth roots of squares lies between the two figures, of which the mean PSNR scatters less.
        """
        return "mean_psnr" if getattr(self.loss, "average", None) in ("log", "fourth_root") else "psnr"

    @property
    def needs_steps(self) -> bool:
        """Whether the loss compares single steps of rk1 and rk2, from points of whole paths."""
        return not getattr(self.loss, "of_ends", True)

    def check(self, solver: LearnedSolver) -> None:
        """Raise ValueError if the loss compares steps that the solver's family does not have."""
        if self.needs_steps and not solver.has_steps:
            raise ValueError(
                f"Stage.loss: wanted a loss of ends, such as 'endpoint' or 'rmse', for the family {solver.family!r}, got "
                f"{self.name!r}, which compares the steps of rk1 or rk2."
            )

    def passes(self, solver: LearnedSolver) -> int:
        """Network passes of a second-order update per velocity evaluation of a sample; every try adds one.

        Examples:
            >>> import bespoke_jax as bj
            >>> theta = bj.init_theta("rk2", num_steps=5)
            >>> [Stage(probes=2, keep_activations=keep).passes(theta) for keep in (False, True)]
            [5, 4]
        """
        if self.needs_steps:
            return 1 + 1 + 4 * (solver.nfe // solver.num_steps) + 3
        probes = 0 if getattr(self.loss, "features", None) is None else self.probes
        return (2 if self.keep_activations else 3) + probes + (3 if self.noise_radius else 0)

    def update(
        self,
        flow: Flow,
        theta: LearnedSolver,
        opt_state: Any,
        paths: Paths,
        key: KeyArray,
        first: int,
        count: int,
        directions: np.ndarray | None = None,
    ) -> tuple[LearnedSolver, Any, np.ndarray, int]:
        """`count` updates beginning with number `first`: (solver, opt_state, losses, velocity evaluations).

        Second-order updates end at the first loss that is not finite. If `directions` [P, p] are given
        (`LearnedSolver.first_directions`), those before `num_iterations // 2` stay within their span; first-order updates ignore
        them.

        A forward pass of one sample counts 1, the reverse-mode gradient of a first-order update 2 more, a forward-mode tangent or
        a cotangent 1. Recomputation (rematerialisation) is not counted.
        """
        self.check(theta)
        if not self.is_second_order:
            drawn = np.stack([_drawn(self, paths.num_paths, key, number) for number in range(first, first + count)])
            found = _first_order(self, mesh_of(flow), flow, theta, opt_state, paths, drawn)
            return *gather(flow, found), int(3 * count * self.batch_size * theta.evaluations(flow))
        values, evaluations = [], 0
        for number in range(first, first + count):
            within = directions if number < self.num_iterations // 2 else None
            theta, opt_state, value, spent = _second_order(self, flow, theta, opt_state, paths, key, number, within)
            values.append(float(value))
            evaluations += spent
            if not np.isfinite(value):
                break
        return *gather(flow, (theta, opt_state)), np.array(values), evaluations


# From a start that is far off, a damping of 1e-3 makes the first steps too long to recover from under this loss.
DEFAULT_STAGES = (
    Stage("sqrt_rmse", optimizer=dataclasses.replace(SMALL_STEPS, damping=3e-2, shrink=2.0, averaging=Recent())),
)
"""Small steps on the mean square root of the error, with a memory of each path; docs/fitting.md has the evidence."""


@functools.partial(jax.jit, static_argnums=(0, 1))
def _first_order(stage, mesh, flow, theta, opt_state, paths, drawn):
    """An update on each row of path numbers `drawn` in one compiled call: (theta, opt_state, losses of the updates)."""

    def loss(raw, batch):
        return stage.loss(of_paths(flow, batch), theta.with_raw(raw), batch)

    def update(carry, rows):
        raw, opt_state = carry
        # Every device holds all paths. On a mesh each takes those that it computes, and no path is moved.
        batch = spread_over(mesh, paths.take(everywhere_over(mesh, rows)))
        value, gradient = jax.value_and_grad(loss)(raw, batch)
        updates, opt_state = optax.with_extra_args_support(stage.optimizer).update(
            gradient, opt_state, raw, value=value, grad=gradient, value_fn=lambda raw: loss(raw, batch)
        )
        return (optax.apply_updates(raw, updates), opt_state), value

    (raw, opt_state), values = jax.lax.scan(update, (theta.raw, opt_state), drawn)
    return theta.with_raw(raw), opt_state, values


def _second_order(stage, flow, theta, state, paths, key, iteration, directions):
    """One Levenberg-Marquardt step: (theta, state, loss, velocity evaluations)."""
    batch = paths.take(_drawn(stage, paths.num_paths, key, iteration))  # its chunks are spread
    if stage.noise_radius:
        batch = relaxed(stage.loss, flow, theta, batch, stage.noise_radius)
    probing = fold_in(fold_in(key, keys.PROBES), iteration)
    options = dict(probes=stage.probes, batch_size=stage.chunk_size, keep_activations=stage.keep_activations)
    quadratic = gauss_newton.linearise(stage.loss, flow, theta, batch, probing, **options)

    def value_fn(raw):
        return gauss_newton.evaluate(stage.loss, flow, theta.with_raw(raw), batch, batch_size=stage.chunk_size)

    raw, state, info = stage.optimizer.update(quadratic, state, theta.raw, value_fn, directions)
    # On a quadratic that is not finite Levenberg-Marquardt makes no step; the loss says so.
    value = quadratic.value if quadratic.is_finite else np.nan
    spent = stage.batch_size * theta.evaluations(flow) * (stage.passes(theta) + info.tried)
    return theta.with_raw(raw), state, value, int(spent)


def _drawn(stage: Stage, num_paths: int, key: KeyArray, iteration: int) -> Int[np.ndarray, "batch_size"]:
    """The numbers of the paths of an update, a function of key and iteration, so that a resumed fit draws the same."""
    drawing, size = fold_in(key, keys.BATCHES), stage.batch_size
    if stage.takes_turns:
        return shuffled(drawing, num_paths)[(iteration * size + np.arange(size)) % num_paths]
    return shuffled(fold_in(drawing, iteration), num_paths)[:size]
