"""Dedicated solvers, each a function that returns a `SolverTable`."""

from bespoke_jax.classic.runge_kutta import euler, heun, midpoint, rk4, runge_kutta

__all__ = ["euler", "heun", "midpoint", "rk4", "runge_kutta"]
