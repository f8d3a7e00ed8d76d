"""Learned times: a dedicated solver whose step times are learned and whose factors are recomputed from them."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from bespoke_jax.checks import check_array, check_choice, check_count, check_float_dtype, known
from bespoke_jax.classic import GRIDS, time_grid
from bespoke_jax.classic.grids import NEED_NO_SCHEDULER
from bespoke_jax.classic.levels import check_scheduler
from bespoke_jax.flow.flow import Flow
from bespoke_jax.learned.starts import made
from bespoke_jax.learned.tables_of_times import METHODS
from bespoke_jax.schedulers import Scheduler
from bespoke_jax.solver import LearnedSolver
from bespoke_jax.table import SolverTable
from bespoke_jax.types import DTypeLike, GridLike

__all__ = ["LearnedTimes"]

_SHORTEST = 0.02  # of its gap in the reference grid: no gap gets shorter, so that times cannot collide


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LearnedTimes(LearnedSolver):
    """A dedicated solver with learned step times; with all parameters 0 it is that solver on the reference grid.

    Learned discretisation, as in DDSS (Watson et al. 2022, arXiv:2202.05830) and LD3 (Tong et al. 2024, arXiv:2405.15506). The
    parameters are few, so few paths suffice, and the solver keeps its order for all of their values.

    The gaps between times are a softmax of log(reference gap) + raw, with the first raw held at 0, mixed with 2 % of the
    reference gaps: t_0 = 0, t_n = 1, and no two times coincide, whatever is learned.

    Attributes:
        raw: [n - 1] logarithms of the gaps' growth relative to the first gap's.
        grid: [n + 1] the reference times; carried, not learned.
        method: a name in `tables_of_times.METHODS`; static.
        scheduler: the flow's, for methods that predict noise or data; static.

    Examples:
        >>> import bespoke_jax as bj
        >>> solver = LearnedTimes.of("dpm_solver_pp-3m", 8, bj.schedulers.CondOT(), grid="log_snr")
        >>> solver.num_parameters, solver.nfe
        (7, 8)
        >>> LearnedTimes.of("midpoint", 2).times().tolist()
        [0.0, 0.5, 1.0]
    """

    raw: jax.Array
    grid: jax.Array
    method: str = dataclasses.field(metadata=dict(static=True))
    scheduler: Scheduler | None = dataclasses.field(metadata=dict(static=True))

    @classmethod
    def of(
        cls,
        method: str,
        num_steps: int,
        scheduler: Scheduler | None = None,
        *,
        grid: GridLike = "uniform",
        dtype: DTypeLike = jnp.float32,
    ) -> "LearnedTimes":
        """The method before it learns.

        Args:
            method: on the velocity: "euler", "midpoint", "heun", "rk4" (1, 2, 2, 4 evaluations a step), "ipndm-2", "-3", "-4"
                (Adams-Bashforth); with a scheduler: "ddim", "dpm_solver_pp-2m", "-3m", "deis-2", "-3", "-4", "ipndm_noise-2",
                "-3", "-4". The names are those of `classic.dedicated`. One evaluation per step unless said otherwise.
            num_steps: n, at least 2: a single step has no time to learn.
            scheduler: the flow's; required by the latter methods and by most named grids.
            grid: the reference times, as for `classic.time_grid`.
            dtype: of the parameters.

        Raises:
            ValueError: for another method, a missing scheduler, a wrong grid, or one with gaps too small for `dtype`.
        """
        check_choice("method", method, METHODS)
        n, dtype = check_count("num_steps", num_steps, 2), check_float_dtype("dtype", dtype)
        if METHODS[method].needs_scheduler or scheduler is not None:
            check_scheduler(scheduler, f"the method {method!r}")
        times = np.asarray(time_grid(grid, n, scheduler)).astype(dtype)
        gap, least = float(np.min(np.diff(times.astype(np.float64)))), 4 * float(jnp.finfo(dtype).eps) / _SHORTEST
        if gap < least:
            raise ValueError(f"grid: wanted gaps of at least {least:.1e} in {jnp.dtype(dtype).name}, got {gap:.1e}.")
        kept = scheduler if METHODS[method].needs_scheduler else None
        raw, times = jax.device_put((np.zeros(n - 1, dtype), times))
        return cls(raw, times, method, kept)

    def check(self, name: str) -> None:
        """Raise TypeError or ValueError unless arrays and method agree and the grid increases from 0 to 1."""
        check_choice(f"{name}.method", self.method, METHODS)
        if METHODS[self.method].needs_scheduler:
            check_scheduler(self.scheduler, f"the method {self.method!r}")
        grid = known(check_array(f"{name}.grid", self.grid, ("n + 1",)))
        check_array(f"{name}.raw", self.raw, (self.num_steps - 1,))
        if grid is not None and not (grid[0] == 0 and grid[-1] == 1 and np.all(np.diff(grid) > 0)):
            raise ValueError(
                f"{name}.grid: wanted times that increase from exactly 0 to exactly 1, got {grid.tolist()}."
            )

    @property
    def family(self) -> str:
        """ "times": the name of the family."""
        return "times"

    @property
    def num_steps(self) -> int:
        """n."""
        return self.grid.shape[-1] - 1

    @property
    def nfe(self) -> int:
        """Velocity evaluations per sample."""
        return METHODS[self.method].stages * self.num_steps

    def times(self) -> Float[jax.Array, "times"]:
        """The times between steps, [n + 1]: strictly increasing from exactly 0 to exactly 1."""
        gaps = jnp.diff(self.grid)
        zero, one = jnp.zeros((1,), self.raw.dtype), jnp.ones((1,), self.raw.dtype)
        share = jax.nn.softmax(jnp.log(gaps) + jnp.concatenate([zero, self.raw]))
        learned = (1 - _SHORTEST) * share + _SHORTEST * gaps
        return jnp.concatenate([zero, jnp.cumsum(learned)[:-1], one])

    def table(self) -> SolverTable:
        """The method's table at these times."""
        return METHODS[self.method].table(self.times(), self.scheduler)

    def starts(self, flow: Flow) -> dict[str, "LearnedTimes"]:
        """The same solver on every grid whose gaps are large enough."""

        def on(name):
            times = time_grid(name, self.num_steps, flow.scheduler)
            return LearnedTimes.of(self.method, self.num_steps, self.scheduler, grid=times, dtype=self.raw.dtype)

        return made({name: partial(on, name) for name in (NEED_NO_SCHEDULER if flow.scheduler is None else GRIDS)})
