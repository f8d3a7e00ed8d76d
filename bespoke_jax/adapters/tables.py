"""What the adapters of other libraries' samplers share: the table that takes the place of theirs."""

from bespoke_jax.solver import Solver, check_solver_arrays, to_table
from bespoke_jax.table import SolverTable

__all__ = ["table_of_one_velocity"]


def table_of_one_velocity(solver: Solver) -> SolverTable:
    """The solver as a table of evaluations of one velocity.

    Raises:
        TypeError: if `solver` is not a solver with a table.
        ValueError: if its arrays disagree, or if it calls the networks of guidance apart.

    Examples:
        >>> import bespoke_jax as bj
        >>> table_of_one_velocity(bj.init_theta("rk2", num_steps=2)).nfe
        4
    """
    table = to_table(check_solver_arrays("solver", solver))
    if table.fields is not None:
        raise ValueError(
            "solver: wanted one that evaluates one velocity, got one that calls the two networks of a guided flow apart."
        )
    return table
