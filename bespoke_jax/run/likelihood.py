"""The log-density of given samples under a solver: change of variables on the solver's own map x0 -> x1.

    log p(x1) = log p_0(x0) - log|det dx1/dx0|,    solve(flow, solver, x0) = x1.

This is the density that `sample` draws from, whatever the solver's error: the determinant is that of the discrete map. The flow's
own density has the integral of div u in its place (eq. (8) of Chen et al. 2018, arXiv:1806.07366). A solver's learned times and
factors give no consistent sum for that integral. With solver None both the noise and the integral are the flow's own, by Dopri5.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bespoke_jax.checks import check_count, check_key, check_positive, check_type
from bespoke_jax.flow.conditions import of_samples
from bespoke_jax.flow.flow import Flow
from bespoke_jax.flow.sharding import gather
from bespoke_jax.flow.source import noise_std
from bespoke_jax.run.backwards import noise_and_volume
from bespoke_jax.run.invert import checked_samples, invert, together
from bespoke_jax.run.krylov import arnoldi, log_trace
from bespoke_jax.run.paths import slices
from bespoke_jax.run.solve import solve
from bespoke_jax.solver import Solver
from bespoke_jax.types import KeyArray, Number, State
from bespoke_jax.warn import warn

__all__ = ["Likelihood", "log_likelihood"]

_LARGEST_EXACT = 1024  # numbers in a sample whose Jacobian is computed as a whole
_JACOBIANS_TOGETHER = 2**22  # numbers in the Jacobians of a batch
_KRYLOV = 32  # dimensions in which the logarithm of the Jacobian is found: exact for samples of at most as many numbers
_COARSE = 0.1  # bits per dimension of doubt about that logarithm, above which there is a warning


class Likelihood(NamedTuple):
    """What `log_likelihood` returns; arrays of NumPy, [*batch].

    Attributes:
        log_p: the log-density in nats; NaN where no noise was found.
        log_det: log|det dx1/dx0|.
        standard_error: that of `log_det` over the probes; None without probes, and NaN with one.
        x0: the noises, [*batch, *event]; [*batch, D] for a flow of trees.
        residual: the RMS of solve(flow, solver, x0) - x1, without the flow's weights; None for the flow itself.
        evaluations: velocity evaluations for a sample, the most of any; a derivative in one direction counts as two.
    """

    log_p: Any
    log_det: Any
    standard_error: Any
    x0: Any
    residual: Any
    evaluations: int

    @property
    def bits_per_dimension(self) -> Any:
        """-log_p / (D log 2), [*batch]. For images in [-1, 1] of 256 levels add 7, which is log2 of the levels in a unit."""
        event = self.x0.shape[self.log_p.ndim :]
        return -self.log_p / (math.prod(event) * math.log(2))


def log_likelihood(
    flow: Flow,
    solver: Solver | None,
    x1: State,
    key: KeyArray | None = None,
    *,
    num_probes: int | None = None,
    rtol: Number = 1e-5,
    batch_size: int | None = None,
) -> Likelihood:
    """log p(x1) of the samples that the solver draws: the log-density of its noise, minus the log-determinant of its map.

    `invert` finds the noise. The determinant is that of the solver's Jacobian: exact from D derivatives, or estimated from random
    probes (Hutchinson 1990) and the logarithm in a Krylov space of 32 dimensions, at 32 derivatives a probe. Call it outside
    `jit`; it is not differentiable.

    Args:
        flow: the velocity field. Its noise is that of `flow.noise`, N(0, sigma_0^2).
        solver: a theta, a table or a `classic.TaylorSolver`; None for the flow itself, by Dopri5 backwards with the divergence.
        x1: samples, [*batch, *event_shape] or a tree, float32 or float64; as many as a `given` flow has conditions.
        key: one JAX random key, for the probes.
        num_probes: probes of each sample; None for the exact determinant, of samples of at most 1024 numbers.
        rtol: as for `invert`.
        batch_size: how many samples are solved together; None for a number that fits into memory.

    Returns:
        `Likelihood`.

    Raises:
        TypeError, ValueError: for arguments of the wrong kind, shape or dtype; probes without a key; samples too large for an
            exact determinant; a flow with a source of its own, whose density is not known.
        FloatingPointError, RuntimeError: as `ground_truth`, from the flow solved backwards.

    Warns:
        UserWarning: if some samples have no noise; if the solver folds space at some (a determinant that is negative or 0), where
            `log_p` is that of one of several noises, or infinite; if the Krylov space is too small for the logarithm. Probes show
            a determinant of 0 alone.

    Examples:
        >>> import jax, bespoke_jax as bj
        >>> flow = bj.analytic.gaussian(mean=[1.0, 2.0], std=0.5)
        >>> found = bj.log_likelihood(flow, bj.init_theta("rk2", num_steps=16), jax.numpy.array([1.0, 2.0]))
        >>> bool(abs(found.log_p - (-jax.numpy.log(2 * jax.numpy.pi * 0.5**2))) < 0.01)
        True
    """
    check_type("flow", flow, Flow, "a bespoke_jax.Flow")
    batch, flat = checked_samples(flow, solver, flow.as_array("x1", x1)[0])
    rtol = check_positive("rtol", rtol)
    if getattr(flow, "source", None) is not None:
        raise ValueError(
            "flow: wanted one whose noise is Gaussian, got one with a source of its own, of unknown density."
        )
    probes, count = _probes(flat, key, num_probes), together(flow, batch_size)
    found = (
        _of_flow(flow, flat, probes, rtol, count)
        if solver is None
        else _of_solver(flow, solver, flat, probes, rtol, count)
    )
    return _summary(flow, batch, probes is not None, *found)


def _summary(flow, batch, probed, x0, log_dets, residual, evaluations) -> Likelihood:
    """What is returned, from x0 [B, *event], log-determinants [B, Q] of each probe or the exact ones, residuals, and the cost."""
    log_det, spread = log_dets.mean(axis=1), None
    if residual is not None:
        residual = residual.reshape(batch)
    if probed:
        with np.errstate(invalid="ignore"):  # of one probe
            spread = (log_dets.std(axis=1) / np.sqrt(np.float64(log_dets.shape[1] - 1))).reshape(batch)
    log_p = (_log_noise(flow, x0) - log_det).reshape(batch)
    x0 = x0.reshape((*batch, *flow.event_shape))  # a tuple: NumPy reshapes to no axes only by one
    return Likelihood(log_p, log_det.reshape(batch), spread, x0, residual, evaluations)


def _probes(x1, key, num_probes) -> jax.Array | None:
    """Random signs [B, P, D] for samples [B, *event]; None for an exact determinant."""
    size = math.prod(x1.shape[1:])
    if num_probes is None:
        if size > _LARGEST_EXACT:
            raise ValueError(
                f"num_probes: wanted a number, for samples of more than {_LARGEST_EXACT} numbers, got None for {size}."
            )
        return None
    num_probes = check_count("num_probes", num_probes)
    check_key(key)
    return jax.random.rademacher(key, (len(x1), num_probes, size), x1.dtype)


def _log_noise(flow: Flow, x0: np.ndarray) -> np.ndarray:
    """The log-density of noises [B, *event] under N(0, sigma_0^2), in float64."""
    sigma = noise_std(flow.scheduler)
    flat = np.asarray(x0, np.float64).reshape(len(x0), -1) / sigma
    return -0.5 * np.sum(flat**2, axis=1) - flat.shape[1] * (math.log(sigma) + 0.5 * math.log(2 * math.pi))


def _of_flow(flow, x1, probes, rtol, count):
    """`_of_solver` for the flow itself, whose residual is not measured."""
    x0, log_dets, evaluations = noise_and_volume(flow, x1, probes, rtol, count)
    return np.asarray(x0), np.asarray(log_dets, np.float64), None, evaluations


def _of_solver(flow, solver, x1, probes, rtol, count):
    """(x0 [B, *event], log-determinants [B, Q] of each probe or the exact one, residual [B], velocity evaluations)."""
    size = math.prod(flow.event_shape)
    count = count if probes is not None else max(1, min(count, _JACOBIANS_TOGETHER // size**2))
    found = invert(flow.replace(weights=None), solver, x1, rtol, batch_size=count)  # a density is of all numbers
    log_dets, doubts, folded = [], [], 0
    for part in slices(len(x1), count):
        some, x0 = of_samples(flow, part), found.x0[part]
        if probes is None:
            signs, log_det = np.linalg.slogdet(np.asarray(gather(flow, _jacobian(some, solver, x0)), np.float64))
            folds = signs <= 0
            log_dets.append(log_det[:, None])
        else:
            by_probe = [_estimated(some, solver, x0, probes[part, i]) for i in range(probes.shape[1])]
            log_dets.append(np.stack([log_det for log_det, _ in by_probe], axis=1))
            folds = np.any(np.isneginf(log_dets[-1]), axis=1)
            doubts.append(np.mean([doubt for _, doubt in by_probe]))
        folded += int(np.sum(folds & found.converged[part]))
    if folded:
        warn(
            f"log_likelihood: the solver folds space at {folded} of {len(x1)} samples (the determinant of its map is negative or "
            "0): they may have several noises, and log_p is the share of one of them, or infinite for 0. A solver of more "
            "evaluations does not fold."
        )
    if doubts and (bits := max(doubts) / size / math.log(2)) > _COARSE:
        warn(
            f"log_likelihood: half of the Krylov space changes the log-determinants by {bits:.2g} bits per dimension on average, "
            f"so {_KRYLOV} dimensions are few for this solver's Jacobian."
        )
    log_dets = np.concatenate(log_dets)
    log_dets[~found.converged] = np.nan
    directions = size if probes is None else probes.shape[1] * min(size, _KRYLOV)
    spent = found.evaluations + 2 * directions * math.ceil(solver.evaluations(flow))
    return np.asarray(found.x0), log_dets, found.residual, spent


@jax.jit
def _jacobian(flow, solver, x0):
    """dx1/dx0 of each sample, [B, D, D]; a direction at a time, so that memory holds one solve."""
    flat = x0.reshape(len(x0), -1)
    product = _product(flow, solver, x0)

    def column(direction):
        return product(jnp.broadcast_to(direction, flat.shape))

    return jnp.moveaxis(jax.lax.map(column, jnp.eye(flat.shape[1], dtype=x0.dtype)), 0, -1)


def _product(flow, solver, x0):
    """v [B, D] -> (dx1/dx0) v."""
    flat = x0.reshape(len(x0), -1)

    def end(flat):
        return solve(flow, solver, flat.reshape(x0.shape)).reshape(flat.shape)

    return lambda v: jax.jvp(end, (flat,), (v,))[1]


@functools.partial(jax.jit, static_argnums=4)
def _hessenberg(flow, solver, x0, probe, size):
    return arnoldi(_product(flow, solver, x0), probe, size)[1]


def _estimated(flow, solver, x0, probe) -> tuple[np.ndarray, np.ndarray]:
    """(log-determinants [B] estimated from a probe [B, D], how much half of the Krylov space changes them [B])."""
    dimension = probe.shape[1]
    size = min(_KRYLOV, dimension)
    h = np.asarray(gather(flow, _hessenberg(flow, solver, x0, probe, size)))
    whole = log_trace(h, dimension)
    doubt = np.zeros_like(whole) if size == dimension else np.abs(whole - log_trace(h, dimension, size // 2))
    return np.where(_is_singular(h), -np.inf, whole), doubt


def _is_singular(h: np.ndarray) -> np.ndarray:
    """Whether the map takes a direction of the Krylov space to 0, up to round-off, [B]; from `arnoldi`'s H [B, k + 1, k]."""
    ends = np.diagonal(h[:, 1:], axis1=1, axis2=2) == 0
    inside = np.cumsum(ends, axis=1) - ends == 0  # the space; the columns after its end are the identity's
    square = h[:, :-1] * inside[:, None]
    round_off = 2 * np.finfo(h.dtype).eps * np.linalg.norm(square, 2, axis=(1, 2))
    return np.linalg.matrix_rank(square, round_off) < np.sum(inside, axis=1)
