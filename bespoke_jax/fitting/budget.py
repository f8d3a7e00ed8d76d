"""What a fit under a budget costs, in velocity evaluations, and so how many updates a budget pays for."""

import math
from typing import TYPE_CHECKING, NamedTuple

from bespoke_jax.classic import ipndm, unipc
from bespoke_jax.fitting.starts import cost_of_choice, num_raced, start_groups
from bespoke_jax.flow.flow import Flow
from bespoke_jax.run.probe import EVALUATIONS as PROBE
from bespoke_jax.run.truth import NUM_CHECKED
from bespoke_jax.solver import LearnedSolver
from bespoke_jax.table import SolverTable

if TYPE_CHECKING:
    from bespoke_jax.fitting.recipes import Recipe

__all__ = ["LOOKS", "Costs", "reference"]

LOOKS = 8
"""Looks at the held-out paths, besides the one at the start."""

_PASSES_OVER_PATHS = 3
_MOST_ITERATIONS = 2**30


def reference(flow: Flow, nfe: int) -> SolverTable:
    """The dedicated solver that replaces Dopri5 under a budget, for a solver of `nfe` evaluations.

    UniPC of third order on the log-SNR grid with 2.4 times as many evaluations, at least 24, which reached 50 dB and more on
    every flow tried. Without a scheduler, Adams-Bashforth of fourth order with 4 times as many, at least 40.
    """
    return _of_evaluations(flow, max(40, 4 * nfe) if flow.scheduler is None else max(24, -(-12 * nfe // 5)))


def _of_evaluations(flow, nfe):
    if flow.scheduler is None:
        return ipndm(nfe, order=4)
    return unipc(nfe, flow.scheduler, order=3, grid="log_snr")


class Costs(NamedTuple):
    """The cost of a fit under a budget, in velocity evaluations, as a function of its number of iterations.

    Attributes:
        recipe, solver: those of the fit.
        evaluations: the solver's, per sample.
        truth: the reference that solves the ends.
        others: evaluations of each path for what the solver takes from it.
        finer: the solver that checks a few of them.
        choice: the cost of choosing the start.
        racers: how many starts make the first updates.
    """

    recipe: "Recipe"
    solver: LearnedSolver
    evaluations: int
    truth: SolverTable
    others: int
    finer: SolverTable
    choice: int
    racers: int

    @classmethod
    def of(cls, recipe: "Recipe", flow: Flow, solver: LearnedSolver) -> "Costs":
        solver = solver.suited(flow)
        evaluations, choice = math.ceil(solver.evaluations(flow)), 0
        truth = reference(flow, evaluations)
        groups = start_groups(flow, solver) if recipe.choose_start else []
        for group in groups:
            choice += cost_of_choice(len(group), evaluations, recipe.num_start_paths, recipe.stages[0].samples_at_once)
        finer = _of_evaluations(flow, 2 * truth.nfe)
        others = solver.most_per_sample(flow)
        return cls(recipe, solver, evaluations, truth, others, finer, choice, max(1, len(groups)))

    def num_paths(self, iterations: int) -> int:
        """Paths to fit to, each of them seen a few times."""
        return max(self.recipe.num_start_paths, iterations * self.recipe.stages[0].batch_size // _PASSES_OVER_PATHS)

    def cost(self, iterations: int) -> int:
        """All evaluations."""
        recipe, stage, nfe, truth = self.recipe, self.recipe.stages[0], self.evaluations, self.truth.nfe
        checked = min(NUM_CHECKED, stage.chunk_size)
        held_out = recipe.num_validation * (truth + (1 + LOOKS) * nfe) + checked * (PROBE + self.finer.nfe)
        # The first updates are made by each racer, and then compared.
        updates = iterations + (self.racers - 1) * num_raced(iterations, -(-iterations // LOOKS))
        race = self.racers * recipe.num_start_paths * nfe if self.racers > 1 else 0
        fitting = updates * stage.batch_size * nfe * (stage.passes(self.solver) + stage.optimizer.tries)
        return self.choice + held_out + self.num_paths(iterations) * (truth + self.others) + race + fitting

    def most_iterations(self, budget: int) -> int:
        """The most iterations that the budget allows, by bisection: the cost grows with their number."""
        few, many = 1, 2
        while self.cost(many) <= budget and many < _MOST_ITERATIONS:
            few, many = many, 2 * many
        while many - few > 1:
            middle = (few + many) // 2
            few, many = (middle, many) if self.cost(middle) <= budget else (few, middle)
        return few
