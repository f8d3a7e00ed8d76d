"""The noise that a solver takes to given samples: corrections by the flow backwards, and Newton's method on x0 -> x1."""

import collections
import math
from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from bespoke_jax.checks import check_count, check_positive, check_type
from bespoke_jax.flow.conditions import check_size, in_turn, of_samples
from bespoke_jax.flow.flow import Flow
from bespoke_jax.flow.sharding import gather, spread
from bespoke_jax.flow.states import weighted
from bespoke_jax.run.backwards import noise_of
from bespoke_jax.run.krylov import accelerated, solution
from bespoke_jax.run.paths import check_finite, slices
from bespoke_jax.run.scores import size as size_of
from bespoke_jax.run.solve import solve
from bespoke_jax.solver import Solver, check_solver_arrays
from bespoke_jax.types import Array, Number, State
from bespoke_jax.warn import warn

__all__ = ["Inverse", "checked_samples", "invert", "together"]

_START = 1e-3  # rtol of the flow's own noise, from which Newton's method starts
_KRYLOV = 32  # dimensions of GMRES's space: exact for samples of at most as many numbers
_MEMORY = 6  # corrections from which the next one is extrapolated
_FASTER, _PATIENCE = 0.5, 6  # where so many corrections do not lower a residual so far, Newton's method takes over
_FAR = 100.0  # residual, over the least one, from which the corrections go back to the best x
_HALVINGS = 8  # of a Newton step that does not lower the residual
_ROUNDING = 16.0  # units in the last place of x0 that no residual can fall below
_NUMBERS_TOGETHER = 2**22  # in a batch of states, of which GMRES holds 33


class Inverse(NamedTuple):
    """What `invert` returns.

    Attributes:
        x0: the noises, [*batch, *event], or a tree if the samples are one.
        residual: the RMS of solve(flow, solver, x0) - x1 of each sample, [*batch], in the flow's norm; None for the flow itself.
        converged: whether it is within the tolerance, [*batch]; None for the flow itself.
        evaluations: velocity evaluations for a sample, the most of any; a derivative in one direction counts as two.
    """

    x0: Any
    residual: Any
    converged: Any
    evaluations: int


def invert(
    flow: Flow,
    solver: Solver | None,
    x1: State,
    rtol: Number = 1e-5,
    *,
    max_iterations: int = 30,
    batch_size: int | None = None,
) -> Inverse:
    """The noise x0 with solve(flow, solver, x0) = x1: the exact inverse of the solver's own map, not of the flow.

    Newton's method, with GMRES for its linear equations and halved steps where the residual does not fall. It starts from the
    noise that the flow itself carries to x1; for samples of more than 32 numbers the flow, solved backwards, first corrects that
    noise, with Anderson's extrapolation (1965). A solver of very few evaluations may fold space: then some x1 have several
    noises, of which one is found, or none. Call it outside `jit`.

    Args:
        flow: the velocity field.
        solver: a theta, a table or a `classic.TaylorSolver`; None for the flow itself, solved backwards by Dopri5.
        x1: samples, [*batch, *event_shape] or a tree, float32 or float64; as many as a `given` flow has conditions.
        rtol: the largest residual, relative to the RMS of all of x1, both with the flow's weights; for the flow itself, the
            tolerance per step. Numbers of weight 0 need not be met.
        max_iterations: Newton steps after which to give up.
        batch_size: how many samples are solved together; None for a number that fits into memory.

    Returns:
        `Inverse`.

    Raises:
        TypeError, ValueError: for arguments of the wrong kind, shape or dtype, and samples that are not finite.
        FloatingPointError, RuntimeError: as `ground_truth`, from the flow solved backwards.

    Warns:
        UserWarning: if some samples did not converge; says how many, and the largest residual.

    Examples:
        >>> import jax, bespoke_jax as bj
        >>> flow, solver = bj.analytic.gaussian(mean=[1.0, 2.0], std=0.1), bj.init_theta("rk2", num_steps=4)
        >>> x0 = flow.noise(jax.random.key(0), (5,))
        >>> found = bj.invert(flow, solver, bj.solve(flow, solver, x0))
        >>> bool(abs(found.x0 - x0).max() < 1e-3), bool(found.converged.all())
        (True, True)
    """
    check_type("flow", flow, Flow, "a bespoke_jax.Flow")
    x1, as_given = flow.as_array("x1", x1)
    batch, flat = checked_samples(flow, solver, x1)
    rtol, max_iterations = check_positive("rtol", rtol), check_count("max_iterations", max_iterations)
    batch_size = together(flow, batch_size)
    if solver is None:
        x0, evaluations = noise_of(flow, flat, rtol, batch_size)
        return Inverse(as_given(x0.reshape(*batch, *flow.event_shape)), None, None, evaluations)
    found = _of_solver(flow, solver, flat, rtol, max_iterations, batch_size)
    return Inverse(
        as_given(found.x0.reshape(*batch, *flow.event_shape)),
        found.residual.reshape(batch),
        found.converged.reshape(batch),
        found.evaluations,
    )


def _of_solver(flow: Flow, solver: Solver, x1: Array, rtol: float, max_iterations: int, batch_size: int) -> Inverse:
    """The inverse of samples [B, *event], `batch_size` at a time; warns of those that did not converge."""
    scale = size_of(flow, x1)
    parts = [
        _newton(of_samples(flow, part), solver, x1[part], rtol * scale, max_iterations)
        for part in slices(len(x1), batch_size)
    ]
    x0, residual, converged = (np.concatenate([part[i] for part in parts]) for i in range(3))
    if not np.all(converged):
        warn(
            f"invert: {np.sum(~converged)} of {len(x1)} samples did not converge; the largest residual is "
            f"{np.max(residual) / scale:.2g} of the RMS of x1. The solver may not reach them, or fold space there; one of more "
            "evaluations is nearer to the flow, whose map does neither. If all residuals are near the tolerance, raise rtol."
        )
    return Inverse(jax.device_put(x0), residual, converged, max(part[3] for part in parts))


def checked_samples(
    flow: Flow, solver: Solver | None, x1: Float[Array, "*shape"]
) -> tuple[tuple[int, ...], Float[jax.Array, "B *event"]]:
    """(the batch shape, the samples [B, *event]), after checking flow, solver and samples."""
    check_type("flow", flow, Flow, "a bespoke_jax.Flow")
    if solver is not None:
        check_solver_arrays("solver", solver, needs_table=False)
    leaves = (x1, *jax.tree.leaves(flow), *jax.tree.leaves(solver))
    if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
        raise TypeError(
            "x1: wanted concrete arrays, got a traced x1, flow or solver; call it outside jit, vmap and grad."
        )
    if solver is not None:
        solver.check_flow(flow)
    batch = flow.batch_shape(x1, "x1")
    if jnp.finfo(x1.dtype).bits < 32:
        raise TypeError(f"x1: wanted float32 or float64, got {x1.dtype}, which is too coarse to invert.")
    flat = jnp.reshape(x1, (-1, *flow.event_shape))
    if not len(flat):
        raise ValueError(f"x1: wanted at least one sample, got shape {jnp.shape(x1)}.")
    check_size(flow, len(flat), "x1")
    check_finite("x1", gather(flow, flat))
    return batch, flat


def together(flow: Flow, batch_size: int | None) -> int:
    """How many samples to solve together."""
    if batch_size is not None:
        return check_count("batch_size", batch_size)
    return max(1, min(256, _NUMBERS_TOGETHER // math.prod(flow.event_shape)))


def _newton(
    flow: Flow, solver: Solver, x1: Array, tolerance: float, max_iterations: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """(x0, residual, converged, velocity evaluations) of samples [B, *event]."""
    x, evaluations = noise_of(flow, x1, _START, len(x1))
    x, x1 = spread(flow, x), spread(flow, x1)
    size, cost = min(_KRYLOV, math.prod(flow.event_shape)), math.ceil(solver.evaluations(flow))
    allowed, residual = (
        tolerance + np.asarray(gather(flow, _rounding(x))),
        np.asarray(gather(flow, _residual(flow, solver, x, x1))),
    )
    evaluations += cost
    if size < math.prod(flow.event_shape):
        x, residual, spent = _corrected(flow, solver, x, x1, residual, allowed)
        evaluations += spent
    for _ in range(max_iterations):
        if np.all(residual <= allowed):
            break
        move, before = _direction(flow, solver, x, x1, size), residual
        evaluations += cost * (1 + 2 * size)
        step = np.where(residual <= allowed, 0, 1).astype(x.dtype)  # of each sample; 0 once it is done
        for _ in range(_HALVINGS):
            trial = _moved(x, move, step)
            found = np.asarray(gather(flow, _residual(flow, solver, trial, x1)))
            evaluations += cost
            better = (found < residual) & (step > 0)
            x, residual = _chosen(better, trial, x), np.where(better, found, residual)
            step = np.where(better, 0, step / 2)
            if not np.any(step):
                break
        if np.all((residual == before) | (residual <= allowed)):
            break
    return np.asarray(gather(flow, x)), residual, residual <= allowed, evaluations


def _corrected(
    flow: Flow, solver: Solver, x: jax.Array, x1: Array, residual: np.ndarray, allowed: np.ndarray
) -> tuple[jax.Array, np.ndarray, int]:
    """(x, residual, velocity evaluations) after corrections by the flow: x + R(x1) - R(F(x)), R the flow backwards, accelerated.

    The more accurate the solver F, the faster they converge, whatever the size of a sample. R of x1 and R of F(x) share their
    steps, so that errors of R cancel. Residuals rise and fall on the way: the best x of each sample is kept.
    """
    twice, evaluations, idle = in_turn(flow, 2 * len(x)), 0, 0
    best, states, moves = x, collections.deque(maxlen=_MEMORY), collections.deque(maxlen=_MEMORY)
    while np.any(residual > allowed) and idle < _PATIENCE:
        noises, spent = noise_of(twice, jnp.concatenate([x1, _end(flow, solver, x)]), _START, 2 * len(x))
        noises = np.asarray(gather(flow, noises), np.float64)
        states.append(np.asarray(gather(flow, x), np.float64))
        moves.append(noises[: len(x)] - noises[len(x) :])
        x = spread(flow, jnp.asarray(accelerated(states, moves), x1.dtype))
        found = np.asarray(gather(flow, _residual(flow, solver, x, x1)))
        evaluations += 2 * spent + 2 * math.ceil(solver.evaluations(flow))
        better, unfinished = found < residual, residual > allowed
        idle = 0 if np.any(unfinished & (found < _FASTER * residual)) else idle + 1
        best, residual = _chosen(better, x, best), np.where(better, found, residual)
        x = _chosen(unfinished & (found < _FAR * residual), x, best)
    return best, residual, evaluations


_end = jax.jit(solve)


@jax.jit
def _residual(flow, solver, x, x1):
    """The RMS of each sample's residual, [B]; infinite if it is not finite."""
    rms = _rms(weighted(x1 - solve(flow, solver, x), flow.error_scale(len(x))))
    return jnp.where(jnp.isfinite(rms), rms, jnp.inf)


def _rms(x):
    return jnp.sqrt(jnp.mean(jnp.square(x.reshape(len(x), -1)), axis=1))


@jax.jit
def _rounding(x):
    return _ROUNDING * jnp.finfo(x.dtype).eps * _rms(x)


@jax.jit
def _moved(x, move, step):
    return x + step.reshape(-1, *(1,) * (x.ndim - 1)) * move


@jax.jit
def _chosen(better, trial, x):
    return jnp.where(better.reshape(-1, *(1,) * (x.ndim - 1)), trial, x)


def _direction_of(flow, solver, x, x1, size):
    """Newton's step from x, [B, *event]."""

    def end(flat):
        return solve(flow, solver, flat.reshape(x.shape)).reshape(flat.shape)

    flat = x.reshape(len(x), -1)

    def product(v):
        return jax.jvp(end, (flat,), (v,))[1]

    return solution(product, x1.reshape(flat.shape) - end(flat), size).reshape(x.shape)


_direction = jax.jit(_direction_of, static_argnums=4)
