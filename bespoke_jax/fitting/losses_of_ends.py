"""Losses of where a solver ends: RMSE (6), the mean PSNR, one between the two, and any distance of your own."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Float

from bespoke_jax.checks import check_choice, check_type
from bespoke_jax.fitting.loss import AVERAGES, Loss
from bespoke_jax.flow.flow import Flow
from bespoke_jax.flow.states import weighted
from bespoke_jax.metrics import mean_square
from bespoke_jax.run.paths import Paths, samples
from bespoke_jax.run.solve import solve
from bespoke_jax.solver import Solver, to_table
from bespoke_jax.types import Array

__all__ = ["Distance", "Endpoint", "Rmse", "SqrtRmse", "endpoint", "rmse", "sqrt_rmse"]


def rmse(flow: Flow, solver: Solver, paths: Paths) -> Float[jax.Array, ""]:
    """E || x(1) - x_n ||, eq. (6): the global error itself, back through the solve. Takes a theta or a table."""
    return _RMSE(flow, solver, paths)


def endpoint(flow: Flow, solver: Solver, paths: Paths) -> Float[jax.Array, ""]:
    """E log || x(1) - x_n ||^2: the mean PSNR, up to sign and scale. Takes a theta or a table."""
    return _ENDPOINT(flow, solver, paths)


def sqrt_rmse(flow: Flow, solver: Solver, paths: Paths) -> Float[jax.Array, ""]:
    """E || x(1) - x_n ||^(1/2): between `rmse`, which a few samples can rule, and `endpoint`. Takes a theta or a table.

    The logarithm of `endpoint` falls without bound wherever a single sample's error vanishes, so that loss has many local minima.
    """
    return _SQRT_RMSE(flow, solver, paths)


@dataclasses.dataclass(frozen=True)
class Distance(Loss):
    """A loss of your own: E phi(distance between the solver's end point and the true one). Second-order fitting takes it too.

    Give the distance in one of two ways. The gradient is exact in both.

    - `features(x) -> [B, ...]`: the distance is the mean square of the difference of the features. Prefer this one: random
      cotangents of the features are pulled back through them, which estimates the Gauss-Newton matrix without bias. `Endpoint`
      is this with x itself as its features.
    - `function(x, x1) -> [B]`: distances >= 0 that behave like a squared error near 0 (LPIPS does; square a norm). Each sample
      has one residual, the root rho of its distance, and the matrix is (d rho)^T (d rho): the exact Gauss-Newton matrix of rho,
      without probes or their cost. If the distance is itself a sum of many squares, this holds only the part along the
      sample's error; the first steps are then too long, the damping has to grow, and a fit gains less per step.

    Both functions take samples [B, *event], must treat them independently and be differentiable by JAX. Define them once, at
    module level: equal distances share compiled programs. Samples of a flow of trees are arrays [B, D] here, see `Flow.unravel`.
    Features of a sample's own shape, [B, *event], are weighted by a flow's `weights`, number by number; other features, and a
    function, are refused for a flow with weights, which they could not follow.

    Args:
        function, features: exactly one of them.
        average: what is applied to distances before their mean: "log", which gives every sample the same weight,
            "fourth_root", "root", or "mean" for the distances themselves.
        name: what records call the loss.

    Raises:
        TypeError: unless exactly one function is given; when called, for a result that is not a floating array.
        ValueError: for another average; when called, for a result of the wrong shape, or one that weights cannot be applied to.

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

    of_ends = True

    def __post_init__(self):
        given = {name: getattr(self, name) for name in ("function", "features") if getattr(self, name) is not None}
        if len(given) != 1 or not callable(*given.values()):
            raise TypeError(f"Distance: wanted one function, as `function` or as `features`, got {given}.")
        check_choice("Distance.average", self.average, AVERAGES)
        check_type("Distance.name", self.name, str, "a name")

    def __call__(self, flow: Flow, solver: Solver, paths: Paths) -> Float[jax.Array, ""]:
        """The loss: E phi(distance), []."""
        flow, x0, x1 = samples(flow, paths)
        scale = flow.error_scale(len(x0))
        return jnp.mean(self.phi(self.between(solve(flow, to_table(solver), x0), x1, scale)))

    def between(
        self,
        x: Float[Array, "batch *event"],
        x1: Float[Array, "batch *event"],
        scale: Float[Array, "..."] | None = None,
    ) -> Float[jax.Array, "batch"]:
        """The distances, [B], of samples [B, *event]; `scale` is `Flow.error_scale`."""
        if self.features is not None:
            difference = self.difference(x, x1, scale)
            return mean_square(difference, difference.ndim - 1)
        assert self.function is not None  # one of the two is there
        if scale is not None:
            raise _unweighted("a function of two samples")
        found = _floating("function", self.function(x, x1))
        if jnp.shape(found) != (len(x),):
            raise ValueError(f"Distance.function: wanted shape ({len(x)},), one per sample, got {jnp.shape(found)}.")
        return found

    def difference(
        self,
        x: Float[Array, "batch *event"],
        x1: Float[Array, "batch *event"],
        scale: Float[Array, "..."] | None = None,
    ) -> jax.Array:
        """features(x) - features(x1), [B, ...]; weighted by `scale`."""
        assert self.features is not None
        found, wanted = (_floating("features", self.features(sample)) for sample in (x, x1))
        if jnp.ndim(found) < 1 or len(found) != len(x):
            raise ValueError(f"Distance.features: wanted shape [{len(x)}, ...], samples first, got {jnp.shape(found)}.")
        if scale is not None and jnp.shape(found)[1:] != jnp.shape(x)[1:]:
            raise _unweighted(f"features of shape {jnp.shape(found)[1:]} of samples of shape {jnp.shape(x)[1:]}")
        return weighted(found - wanted, scale)

    def check(self, flow: Flow) -> None:
        """Raise ValueError if the flow has weights that cannot enter. Nothing is computed."""
        if flow.weights is not None:
            event = jax.ShapeDtypeStruct((2, *flow.event_shape), jnp.float32)
            jax.eval_shape(self.between, event, event, event)


def _unweighted(what: str) -> ValueError:
    return ValueError(
        f"Distance: wanted features of a sample's own shape for a flow with weights, got {what}; give flow.replace(weights=None)."
    )


def _floating(name, found):
    """The result of a user's function, if it is floating: integers and booleans have no gradient, complex numbers no size."""
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


def SqrtRmse() -> Distance:
    """E || x(1) - x_n ||^(1/2) as a value: `sqrt_rmse`."""
    return _SQRT_RMSE


def _itself(x):
    return x


_ENDPOINT = Distance(features=_itself, average="log", name="endpoint")
_RMSE = Distance(features=_itself, average="root", name="rmse")
_SQRT_RMSE = Distance(features=_itself, average="fourth_root", name="sqrt_rmse")
