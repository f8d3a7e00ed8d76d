"""Losses of where a solver ends: RMSE (6), the mean PSNR, and any distance of your own."""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp

from bespoke_jax.checks import check_choice, check_type
from bespoke_jax.fitting.loss import AVERAGES, Loss
from bespoke_jax.flow.flow import Flow
from bespoke_jax.metrics import mean_square
from bespoke_jax.run.paths import Paths, samples
from bespoke_jax.run.solve import solve
from bespoke_jax.table import Solver, to_table

__all__ = ["Distance", "Endpoint", "Rmse", "endpoint", "rmse"]


def rmse(flow: Flow, solver: Solver, paths: Paths):
    """E || x(1) - x_n ||, eq. (6): the global error itself, back through the solve. Takes a theta or a table."""
    return _RMSE(flow, solver, paths)


def endpoint(flow: Flow, solver: Solver, paths: Paths):
    """E log || x(1) - x_n ||^2: the mean PSNR, up to sign and scale. Takes a theta or a table."""
    return _ENDPOINT(flow, solver, paths)


@dataclasses.dataclass(frozen=True)
class Distance(Loss):
    """A loss of your own: E phi(distance of where the solver ends from the truth), for second-order fitting too.

    Say what the distance is in one of two ways; the gradient is exact in both.

    - `features(x) -> [B, ...]`: the distance is the mean square of the difference of features. The better way: random cotangents
      of the features go back through them, and the Gauss-Newton matrix is estimated without bias, as for `endpoint`, which
      is this with x itself as its features.
    - `function(x, x1) -> [B]`: distances >= 0 that are like a squared error near 0 (LPIPS is; square a norm). The one residual of
      a sample is the root rho, and the matrix is made of (d rho)^T (d rho), without probes or their cost. That is the
      Gauss-Newton matrix of rho, exactly; of a distance that is itself a sum of many squares it holds only the part along
      the sample's error. So steps begin too long, the damping has to grow, and a fit gains less per step.

    Both see samples [B, *event], must treat them independently and be differentiable by JAX. Define them once, at module level:
    equal distances share what is compiled.

    Args:
        function, features: one of them.
        average: what is taken of distances before their mean: "log", so that every sample has the same say, "root", or "mean" for
            the distances themselves.
        name: what records call it.

    Raises:
        TypeError: unless exactly one function is given; when called, for a result that is no floating array.
        ValueError: for another average; when called, for a result of the wrong shape.

    Examples:
        >>> import jax.numpy as jnp, bespoke_jax as bj
        >>> coarse = Distance(features=lambda x: x.reshape(len(x), 2, 2).mean(-1), name="coarse")
        >>> coarse.between(jnp.ones((1, 4)), jnp.zeros((1, 4))).tolist()
        [1.0]
        >>> bj.Stage(coarse, num_iterations=8).name
        'coarse'
    """

    function: Callable | None = None
    features: Callable | None = None
    _: dataclasses.KW_ONLY
    average: str = "log"
    name: str = "distance"

    @property
    def of_ends(self) -> bool:
        """True."""
        return True

    def __post_init__(self):
        given = {name: getattr(self, name) for name in ("function", "features") if getattr(self, name) is not None}
        if len(given) != 1 or not callable(*given.values()):
            raise TypeError(f"Distance: wanted one function, as `function` or as `features`, got {given}.")
        check_choice("Distance.average", self.average, AVERAGES)
        check_type("Distance.name", self.name, str, "a name")

    def __call__(self, flow: Flow, solver: Solver, paths: Paths):
        """The loss: E phi(distance), []."""
        flow, x0, x1 = samples(flow, paths)
        return jnp.mean(self.phi(self.between(solve(flow, to_table(solver), x0), x1)))

    @property
    def phi(self) -> Callable:
        """What is taken of distances."""
        return AVERAGES[self.average]

    def between(self, x, x1):
        """The distances, [B], of samples [B, *event]."""
        if self.features is not None:
            difference = self.difference(x, x1)
            return mean_square(difference, difference.ndim - 1)
        found = _floating("function", self.function(x, x1))
        if jnp.shape(found) != (len(x),):
            raise ValueError(f"Distance.function: wanted shape ({len(x)},), one per sample, got {jnp.shape(found)}.")
        return found

    def difference(self, x, x1):
        """features(x) - features(x1), [B, ...]."""
        found, wanted = (_floating("features", self.features(sample)) for sample in (x, x1))
        if jnp.ndim(found) < 1 or len(found) != len(x):
            raise ValueError(f"Distance.features: wanted shape [{len(x)}, ...], samples first, got {jnp.shape(found)}.")
        return found - wanted


def _floating(name, found):
    """What a function of the user's returns: of integers or booleans there is no gradient, of complex numbers no size."""
    dtype = getattr(found, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"Distance.{name}: wanted a floating array, got {dtype or type(found).__name__}.")
    return found


def Endpoint() -> Distance:
    """E log || x(1) - x_n ||^2 as a value: `endpoint`."""
    return _ENDPOINT


def Rmse() -> Distance:
    """E || x(1) - x_n ||, eq. (6), as a value: `rmse`."""
    return _RMSE


def _itself(x):
    return x


_ENDPOINT = Distance(features=_itself, average="log", name="endpoint")
_RMSE = Distance(features=_itself, average="root", name="rmse")
