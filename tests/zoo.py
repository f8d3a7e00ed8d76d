"""The problem zoo: flows in closed form, in every shape, under every scheduler. A new entry gets every generic test."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

import bespoke_jax as bj
from tests import reference

__all__ = ["GAUSSIANS", "PROBLEMS", "SCHEDULERS", "Problem", "call", "path_and_velocity", "solve"]

SCHEDULERS = {
    "CondOT": bj.schedulers.CondOT(),
    "Cosine": bj.schedulers.Cosine(),
    "VariancePreserving": bj.schedulers.VariancePreserving(),
    "EDM": bj.schedulers.EDM(),
}


@jax.jit
def call(flow, t, x):
    """flow(t, x), compiled as a whole: quicker than one operation after another."""
    return flow(t, x)


@jax.jit
def path_and_velocity(paths, t):
    """(x(t), x'(t)) of true paths, compiled as a whole."""
    return paths.at(t), paths.velocity(t)


@functools.partial(jax.jit, static_argnames="return_path")
def solve(flow, solver, x0, return_path=False):
    """bj.solve, compiled as a whole."""
    return bj.solve(flow, solver, x0, return_path=return_path)


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """Data from a Gaussian mixture; a Gaussian is a mixture of one.

    Attributes:
        means: [K, *event], nested lists.
        std: [K].
        weights: [K], adding up to 1.
        scheduler: a name in SCHEDULERS.
    """

    means: list
    std: list
    weights: list
    scheduler: str

    @property
    def event_shape(self):
        return np.shape(self.means)[1:]

    @functools.cached_property
    def flow(self):
        """The flow, in float64."""
        with jax.enable_x64(True):
            return bj.analytic.mixture(self.means, jnp.asarray(self.std), self.weights, SCHEDULERS[self.scheduler])

    @functools.cached_property
    def velocity(self):
        """u(t, x) in NumPy, t inside (0, 1)."""
        return reference.mixture_velocity(self.scheduler, self.means, self.std, self.weights)

    def x_at_time(self, t, num, seed=0):
        """Points [num, *event] where the flow is at home at time t, in NumPy."""
        rng = np.random.default_rng(seed)
        alpha, sigma, _, _ = reference.SCHEDULERS[self.scheduler](t)
        component = np.arange(num) % len(self.std)
        spread = np.reshape(np.asarray(self.std)[component], (num, *(1,) * len(self.event_shape)))
        x1 = np.asarray(self.means)[component] + spread * rng.standard_normal((num, *self.event_shape))
        return alpha * x1 + sigma * rng.standard_normal((num, *self.event_shape))

    @functools.cached_property
    def paths(self):
        """Three true paths, in float64."""
        with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
            return bj.ground_truth(self.flow, jnp.asarray(self.x_at_time(0.0, 3)), rtol=1e-8, atol=1e-8)


PROBLEMS = {
    "gaussian": Problem([[1.0, -2.0, 0.5]], [0.4], [1.0], "CondOT"),
    "gaussian scalar": Problem([0.7], [0.5], [1.0], "Cosine"),
    "gaussian image": Problem([[[[0.5], [-1.0]], [[0.2], [1.5]]]], [0.3], [1.0], "VariancePreserving"),
    "gaussian 2": Problem([[-1.0, 0.5]], [0.5], [1.0], "EDM"),
    "mixture scalar": Problem([-1.0, 1.5], [0.3, 0.6], [0.4, 0.6], "EDM"),
    "mixture 1": Problem([[-2.0], [0.0], [1.0]], [0.4, 0.2, 0.5], [0.2, 0.5, 0.3], "VariancePreserving"),
    "mixture 5": Problem([[0.5, -0.5, 1.0, 0.0, 2.0], [-1.0, 0.0, 0.3, 0.8, -0.2]], [0.5, 0.7], [0.25, 0.75], "CondOT"),
    "mixture image": Problem(
        [[[0.5, -0.5, 1.0], [0.1, 0.9, -1.2]], [[-0.7, 0.3, 0.0], [1.1, -0.4, 0.6]]], [0.6, 0.4], [0.5, 0.5], "Cosine"
    ),
}
GAUSSIANS = {name: problem for name, problem in PROBLEMS.items() if len(problem.std) == 1}
