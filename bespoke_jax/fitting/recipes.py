"""Recipes: how to learn a solver, as values. The default, the paper's, for few velocity evaluations, for the mean RMSE."""

import dataclasses

import numpy as np
import optax

from bespoke_jax.checks import check_choice, check_count, check_flag, check_positive, check_type
from bespoke_jax.fitting.averaging import PowerLaw
from bespoke_jax.fitting.budget import LOOKS, Costs
from bespoke_jax.fitting.loss import BY_LOSS, FIGURES, Loss
from bespoke_jax.fitting.stages import DAMPING_FALLS, DEFAULT_STAGES, Stage, untested_steps
from bespoke_jax.fitting.starts import NUM_START_PATHS
from bespoke_jax.flow.flow import Flow
from bespoke_jax.solver import LearnedSolver, check_solver_arrays
from bespoke_jax.table import SolverTable

__all__ = ["Recipe", "frugal", "mean_rmse", "paper"]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How `fit` learns a solver.

    Attributes:
        stages: what to minimise, how, and for how long; each stage begins at the best solver so far.
        num_paths, num_validation: true paths to fit to and to hold out.
        rtol, atol: tolerances of `ground_truth`, which solves them.
        reference: a solver to use in place of Dopri5, for losses of ends.
        checked_by: a more accurate solver still, by which a few held-out ends are checked; None for Dopri5 at a tenth of `rtol`
            and `atol`.
        choose_start: whether to try the starts of the solver's family, too, and begin from the one with the least loss, by the
            first loss of ends in `stages`. A fit of `LearnedCalls` that chooses learns pairs of calls first.
        num_start_paths: on how many of the paths the best few starts are compared.
        best_by: the figure on the held-out paths that decides which solver is best: "psnr", of the mean RMSE, which a few bad
            samples can dominate, or "mean_psnr", the mean over samples. None for the one that the last stage minimises:
            "mean_psnr" for a mean of logarithms or fourth roots, "psnr" for any other loss. "loss" is the last stage's loss
            itself, one of ends, for distances that no PSNR measures.
        data_range: peak of the PSNR, 2 for data in [-1, 1].
        budget: velocity evaluations to spend in all, from which `resolve` derives the iterations of the one stage, the number of
            paths and the reference; None for no limit. See `frugal`.

    Raises:
        TypeError, ValueError: for a value of the wrong kind; names the field.

    Examples:
        >>> import bespoke_jax as bj
        >>> Recipe(stages=(bj.Stage("rmse", 100),), num_paths=256).num_validation
        64
    """

    stages: tuple[Stage, ...] = DEFAULT_STAGES
    num_paths: int = 128
    num_validation: int = 64
    rtol: float = 1e-5
    atol: float | None = None
    reference: SolverTable | None = None
    checked_by: SolverTable | None = None
    choose_start: bool = True
    num_start_paths: int = NUM_START_PATHS
    best_by: str | None = None
    data_range: float = 2.0
    budget: int | None = None

    def __post_init__(self):
        stages = self.stages
        if not isinstance(stages, tuple | list) or not stages or not all(isinstance(s, Stage) for s in stages):
            raise TypeError(f"Recipe.stages: wanted a non-empty tuple of Stage, got {stages!r}.")
        object.__setattr__(self, "stages", tuple(stages))
        check_flag("Recipe.choose_start", self.choose_start)
        for name in ("num_paths", "num_validation", "num_start_paths"):
            check_count(f"Recipe.{name}", getattr(self, name))
        if self.best_by is not None:
            check_choice("Recipe.best_by", self.best_by, (*FIGURES, BY_LOSS))
        if self.best_by == BY_LOSS and not (self.stages[-1].is_of_ends and isinstance(self.stages[-1].loss, Loss)):
            raise ValueError(
                f"Recipe.best_by: wanted {' or '.join(map(repr, FIGURES))} for the loss {self.stages[-1].name!r}, which is "
                f"not one of ends, got {BY_LOSS!r}."
            )
        for name in ("rtol", "data_range", *(() if self.atol is None else ("atol",))):
            check_positive(f"Recipe.{name}", getattr(self, name))
        for name in ("reference", "checked_by"):
            if (solver := getattr(self, name)) is not None:
                check_type(f"Recipe.{name}", solver, SolverTable, "a SolverTable such as bj.classic.unipc's")
                check_solver_arrays(f"Recipe.{name}", solver)
        if self.budget is not None:
            _check_budget(self.budget, stages)

    @property
    def figure(self) -> str:
        """The figure that decides which solver is best: `best_by`, or where that is None the last loss's own.

        Examples:
            >>> import bespoke_jax as bj
            >>> [Recipe(stages=(bj.Stage(loss),)).figure for loss in ("endpoint", "rmse")]
            ['mean_psnr', 'psnr']
        """
        return self.best_by or self.stages[-1].figure

    def resolve(self, flow: Flow, solver: LearnedSolver) -> "Recipe":
        """The recipe for this flow and solver: itself, unless it has a budget.

        Raises:
            ValueError: if the budget does not suffice for one update; says what does.

        Examples:
            >>> import bespoke_jax as bj
            >>> flow = bj.analytic.mixture([[1.0, -1.0], [0.0, 1.0]], std=0.3)
            >>> frugal(8000).resolve(flow, bj.init_theta("rk1", 2)).stages[0].num_iterations > 50
            True
        """
        if self.budget is None:
            return self
        plan = Costs.of(self, flow, solver)
        if self.budget < plan.cost(1):
            raise ValueError(
                f"budget: wanted at least {plan.cost(1)} for a solver of {solver.nfe} evaluations, got {self.budget!r}."
            )
        iterations = plan.most_iterations(self.budget)
        stage = self.stages[0]
        every, method = -(-iterations // LOOKS), stage.optimizer.falling(DAMPING_FALLS, iterations)
        return dataclasses.replace(
            self,
            stages=(dataclasses.replace(stage, num_iterations=iterations, optimizer=method, validate_every=every),),
            num_paths=plan.num_paths(iterations),
            reference=plan.truth,
            checked_by=plan.finer,
            budget=None,
        )


def paper(
    num_iterations: int = 1000, learning_rate: float = 2e-3, batch_size: int = 40, *, data_range: float = 2.0
) -> Recipe:
    """The paper's recipe: Adam on the RMSE-Bound loss (Sec. 2.4, Algorithm 3), from the base solver, on cached paths.

    The paper leaves learning rate, batch size and number of iterations open; these are ours.

    Raises:
        ValueError: for numbers that are not positive, or counts that are not integers.

    Examples:
        >>> paper(200).stages[0].name
        'rmse_bound'
    """
    rate = check_positive("learning_rate", learning_rate)
    stage = Stage("rmse_bound", num_iterations, optax.adam(rate), batch_size, validate_every=25)
    return Recipe(stages=(stage,), choose_start=False, data_range=data_range)


# With a memory of each path, `Recent`, rk1 ended at almost twice the mean RMSE; tables did not.
_LONGER_EACH_STEP = dataclasses.replace(DEFAULT_STAGES[0].optimizer, averaging=PowerLaw(matrix=4.0, gradient=6.0))


def mean_rmse(
    num_iterations: int = 64,
    batch_size: int = 128,
    num_paths: int = 2048,
    num_validation: int = 512,
    *,
    data_range: float = 2.0,
) -> Recipe:
    """A recipe for the mean RMSE where a few samples rule it, as they do on data with narrow clusters, whose paths part.

    The default minimises a loss in which these few count little more than others. Here the mean RMSE chooses the start, is
    minimised and chooses the best solver, on enough paths to hold such samples. It takes 6 to 9 times the default's evaluations.

    Raises:
        ValueError: for counts that are not positive integers.

    Examples:
        >>> mean_rmse().figure, mean_rmse(num_paths=512).num_paths
        ('psnr', 512)
    """
    stage = Stage("rmse", num_iterations, _LONGER_EACH_STEP, batch_size)
    return Recipe((stage,), num_paths, num_validation, data_range=data_range)


_STAGE = Stage("endpoint", 1, untested_steps(1), batch_size=4, chunk_size=4, keep_activations=True)
_NUM_VALIDATION = 12
_NUM_START_PATHS = 8
_MOST = 10**12  # evaluations: more than any fit takes


def frugal(budget: int = 20_000, *, choose_start: bool = True, data_range: float = 2.0) -> Recipe:
    """A recipe that spends at most `budget` velocity evaluations of single samples.

    A dedicated solver takes the place of Dopri5 for the ends of the paths, and Levenberg-Marquardt takes batches of a few samples
    and averages over the quadratics of earlier ones. The activations of a batch at all evaluations are in memory together. The
    best start is a solver learned on a model of the same kind: see `transfer`.

    Args:
        budget: evaluations in all: true ends, start, updates, held-out paths.
        choose_start, data_range: as for `Recipe`.

    Raises:
        TypeError, ValueError: if the budget is not an integer or beyond all reason. `fit` refuses one that does not suffice.

    Examples:
        >>> import jax, bespoke_jax as bj
        >>> flow, solver = bj.analytic.mixture([[1.0, -1.0], [0.0, 1.0]], std=0.8), bj.init_theta("rk1", 2)
        >>> bj.fit(flow, solver, jax.random.key(0), frugal(8000)).cost <= 8000
        True
    """
    _check_budget(budget, (_STAGE,))
    return Recipe(
        stages=(_STAGE,),
        num_validation=_NUM_VALIDATION,
        num_start_paths=_NUM_START_PATHS,
        choose_start=check_flag("choose_start", choose_start),
        data_range=data_range,
        budget=budget,
    )


def _check_budget(budget, stages):
    if isinstance(budget, bool) or not isinstance(budget, int | np.integer):
        raise TypeError(f"budget: wanted an integer, got {budget!r}.")
    if budget > _MOST:
        raise ValueError(f"budget: wanted at most {_MOST:.0e} evaluations, got {budget:.3g}.")
    if len(stages) > 1 or not stages[0].is_second_order or not stages[0].is_of_ends:
        raise ValueError(
            f"Recipe.budget: wanted one stage, of Levenberg-Marquardt on a loss of ends (see frugal), got {stages!r:.200}."
        )
