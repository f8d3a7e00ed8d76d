"""Does a learned solver serve this flow? Its error on a few true paths, next to those of the usual solvers."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from bespoke_jax import classic
from bespoke_jax.checks import check_count, check_key, check_positive, check_type
from bespoke_jax.flow.conditions import dealt, of_samples
from bespoke_jax.flow.flow import Flow
from bespoke_jax.run import adjoint
from bespoke_jax.run.ground_truth import ground_truth
from bespoke_jax.run.probe import check_velocity
from bespoke_jax.run.scores import (
    Score,
    decibels,
    distances,
    has_tails,
    score,
    standard_error,
    table_of_scores,
    with_error,
)
from bespoke_jax.run.truth import Truth, truth_of, warn_of_truth, warn_of_useless
from bespoke_jax.solver import Solver, check_solver_arrays
from bespoke_jax.types import KeyArray, Number
from bespoke_jax.warn import warn

__all__ = ["Score", "SolverCheck", "Yardstick", "check_solver", "yardstick"]


class SolverCheck(NamedTuple):
    """The result of `check_solver`. `print` it for a table.

    Attributes:
        fits: whether the solver's mean PSNR is above that of every other solver here.
        gain: by how many dB it is above the best of them; negative if below.
        nfe: velocity evaluations per sample.
        network_calls: network calls per sample: `nfe` times `flow.calls_per_evaluation`, which is 2 with `guided`.
        num_paths: the number of true paths measured on.
        solver: the solver's score.
        euler: the score of Euler's method with as many evaluations.
        midpoint: the score of the midpoint method; None if `nfe` is odd.
        dedicated: the score of the best dedicated solver, or of the best of the given `others`; None if there were none.
        truth: the accuracy of the true paths: their ends against those solved to a tenth of the tolerance.
        gain_standard_error: the standard error of `gain`, in dB, from the differences path by path; NaN for one path.
    """

    fits: bool
    gain: float
    nfe: int
    network_calls: int
    num_paths: int
    solver: Score
    euler: Score
    midpoint: Score | None
    dedicated: Score | None
    truth: Truth | None = None
    gain_standard_error: float = math.nan

    def __str__(self) -> str:
        apart = f"{with_error(abs(self.gain), self.gain_standard_error)} dB"
        verdict = f"fits: {apart} above" if self.fits else f"does not fit: {apart} below"
        calls = f" = {self.network_calls} network calls" if self.network_calls != self.nfe else ""
        rows = [row for row in (self.solver, self.euler, self.midpoint, self.dedicated) if row is not None]
        lines = [
            f"{verdict} the best other solver by mean PSNR (NFE {self.nfe}{calls}, {self.num_paths} true paths)",
            *table_of_scores([(row.name, row) for row in rows]),
        ]
        if 0 < abs(self.gain) < 2 * self.gain_standard_error:
            lines.append("The difference is less than two standard errors: measure on more paths to be sure.")
        return "\n".join(lines)


def check_solver(
    flow: Flow,
    solver: Solver,
    key: KeyArray,
    *,
    num_paths: int = 16,
    others: Mapping[str, Solver] | None = None,
    rtol: Number = 1e-5,
    atol: Number | None = None,
    data_range: Number = 2.0,
    batch_size: int = 64,
) -> SolverCheck:
    """Measure a solver on fresh noise of `flow`, next to Euler, midpoint and the dedicated solvers at the same NFE.

    The verdict goes by the mean PSNR, because on few paths the PSNR of the mean RMSE depends on the worst of them. The best of
    some hundred dedicated solvers is chosen on the paths that it is measured on, which flatters it a little: a solver that fits
    here, fits.

    Args:
        flow: the velocity field.
        solver: a theta, a learned table or a table.
        key: one JAX random key, other than the one that the solver was learned with.
        num_paths: true paths to solve and measure on.
        others: name -> solver to compare with; None for `classic.dedicated(solver.nfe, flow.scheduler)`, which take most of the
            time. `others={}` leaves only Euler and midpoint.
        rtol, atol: the tolerance of the true paths, as for `ground_truth`.
        data_range: peak of the PSNR, 2 for data in [-1, 1].
        batch_size: samples per evaluation of the velocity.

    Raises:
        TypeError, ValueError: for arguments of the wrong kind, before anything is compiled; if a sample's velocity depends on
            chance or on its batch (a network in training mode).

    Warns:
        UserWarning: if the solver comes within 6 dB of the true paths' own accuracy; if it is hardly better than the mean sample;
            if the velocity's slope at t = 0 is not the scheduler's; if a few samples make up most of the mean RMSE (psnr and
            mean_psnr 10 dB apart).

    Examples:
        >>> import jax, bespoke_jax as bj
        >>> flow = bj.analytic.mixture([[-1.0, 0.5], [1.0, 0.0]], std=0.3)
        >>> found = check_solver(flow, bj.classic.ipndm(8), jax.random.key(0), others={"heun": bj.classic.heun(8)})
        >>> found.fits, found.nfe, found.dedicated.name
        (True, 8, 'heun')
    """
    _check_arguments(flow, solver, key, others)
    num_paths, batch_size = check_count("num_paths", num_paths), check_count("batch_size", batch_size)
    data_range = check_positive("data_range", data_range)
    ruler = yardstick(flow, key, num_paths, rtol=rtol, atol=atol, data_range=data_range, batch_size=batch_size)
    found = _compared(ruler, solver, others)
    own = found.solver
    warn_of_truth("check_solver", own.mean_psnr, ruler.truth.mean_psnr, ruler.truth)
    if has_tails(own.psnr, own.mean_psnr):
        warn(
            f"check_solver: psnr is {own.psnr:.1f} dB and mean_psnr {own.mean_psnr:.1f}: a few of {num_paths} samples make up "
            "most of the mean RMSE. How many of them there are is chance, so psnr may be off by more than its standard error: "
            "measure on more paths (num_paths=)."
        )
    warn_of_useless("check_solver", ruler.flow, ruler.x1, own.rmse, max(own.psnr, own.mean_psnr))
    return found


class Yardstick(NamedTuple):
    """Fresh noises of a flow and their true ends, by which any solver is scored.

    Attributes:
        flow: the flow of these samples.
        x0, x1: noises and true ends, [N, *event].
        truth: the accuracy of the true ends.
        data_range: peak of the PSNR.
        batch_size: samples per evaluation of the velocity.
    """

    flow: Flow
    x0: jax.Array
    x1: jax.Array
    truth: Truth
    data_range: float
    batch_size: int

    def errors(self, solver: Solver) -> Float[np.ndarray, "N"]:
        """The RMSE of each sample of a solver from these noises."""
        ends = adjoint.end_points(self.flow, solver, self.x0, self.batch_size)
        return distances(self.flow, ends, self.x1)

    def score(self, name: str, solver: Solver) -> Score:
        """The score of a solver on these noises."""
        return score(name, self.errors(solver), self.data_range)

    def first(self, count: int) -> "Yardstick":
        """The first `count` noises alone."""
        part = slice(count)
        return self._replace(flow=of_samples(self.flow, part), x0=self.x0[part], x1=self.x1[part])


def yardstick(
    flow: Flow,
    key: KeyArray,
    num_paths: int,
    *,
    rtol: Number = 1e-5,
    atol: Number | None = None,
    data_range: float = 2.0,
    batch_size: int = 64,
) -> Yardstick:
    """True paths of fresh noise, after a look at the velocity; arguments, errors and warnings as for `check_solver`.

    Examples:
        >>> import bespoke_jax as bj
        >>> ruler = yardstick(bj.analytic.gaussian(mean=[1.0, -1.0], std=0.3), jax.random.key(0), num_paths=4)
        >>> ruler.score("heun", bj.classic.heun(20)).psnr > ruler.score("euler", bj.classic.euler(20)).psnr
        True
    """
    probed = max(2, min(batch_size, num_paths))  # a single sample cannot show whether it depends on its batch
    check_velocity(*_samples(flow, key, probed))
    flow, x0 = _samples(flow, key, num_paths)
    paths = ground_truth(flow, x0, rtol, atol, batch_size=batch_size, ends_only=True)
    truth, _ = truth_of(paths, flow, rtol, atol, batch_size=batch_size, data_range=data_range)
    return Yardstick(flow, x0, paths.x1, truth, data_range, batch_size)


def _samples(flow: Flow, key: KeyArray, count: int) -> tuple[Flow, jax.Array]:
    """(the flow of fresh samples, their x0)."""
    some = dealt(flow, jax.random.fold_in(key, 0), count)
    return some, some.ravel(some.noise(key, (count,)))


class _Measured(NamedTuple):
    """A solver's score, and the RMSE of each sample."""

    score: Score
    errors: np.ndarray

    @property
    def mean_psnr(self) -> float:
        return self.score.mean_psnr


def _compared(ruler: Yardstick, solver: Solver, others: Mapping[str, Solver] | None) -> SolverCheck:
    """The solver and all others, scored."""

    def measured(name: str, solver: Solver) -> _Measured:
        errors = ruler.errors(solver)
        return _Measured(score(name, errors, ruler.data_range), errors)

    flow, nfe = ruler.flow, math.ceil(solver.evaluations(ruler.flow))
    if others is None:
        others = classic.dedicated(nfe, flow.scheduler)
    own, euler = measured("this solver", solver), measured("euler", classic.euler(nfe))
    midpoint = measured("midpoint", classic.midpoint(nfe)) if nfe % 2 == 0 else None
    dedicated = max((measured(*item) for item in others.items()), key=_mean_psnr, default=None)
    best = max((other for other in (euler, midpoint, dedicated) if other is not None), key=_mean_psnr)
    gain, apart = own.mean_psnr - best.mean_psnr, math.nan
    if math.isfinite(gain):
        differences = decibels(own.errors, ruler.data_range) - decibels(best.errors, ruler.data_range)
        apart = standard_error(differences)
    calls = solver.network_calls(flow)
    of_midpoint, of_dedicated = (None if each is None else each.score for each in (midpoint, dedicated))
    return SolverCheck(
        fits=gain > 0,
        gain=gain,
        nfe=nfe,
        network_calls=calls,
        num_paths=len(ruler.x0),
        solver=own.score,
        euler=euler.score,
        midpoint=of_midpoint,
        dedicated=of_dedicated,
        truth=ruler.truth,
        gain_standard_error=apart,
    )


def _mean_psnr(measured: _Measured) -> float:
    return measured.mean_psnr


def _check_arguments(flow: Flow, solver: Solver, key: KeyArray, others: Mapping[str, Solver] | None) -> None:
    check_type("flow", flow, Flow, "a bespoke_jax.Flow")
    if others is not None and not isinstance(others, Mapping):
        raise TypeError(f"others: wanted a dict of solvers by name, got {type(others).__name__}.")
    named = {"solver": solver} | {f"others[{name!r}]": other for name, other in (others or {}).items()}
    for name, value in named.items():
        check_solver_arrays(name, value).check_flow(flow)
    check_key(key)
