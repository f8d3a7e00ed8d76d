"""Levenberg-Marquardt for a few parameters: damped Gauss-Newton steps on averaged quadratics."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from bespoke_jax.checks import check_count, check_number, check_positive, check_type
from bespoke_jax.dtypes import promote
from bespoke_jax.fitting.averaging import Forgetting, PowerLaw, Recent
from bespoke_jax.fitting.gauss_newton import Quadratic
from bespoke_jax.types import Array, PyTree

__all__ = ["LevenbergMarquardt", "LevenbergMarquardtState", "StepInfo"]


class LevenbergMarquardtState(NamedTuple):
    """The state carried from step to step; arrays of NumPy, or of JAX as a checkpoint library returns them.

    Attributes:
        damping: [] the damping of the next step.
        memory: what `averaging` remembers of earlier quadratics.
    """

    damping: Array
    memory: Any


class StepInfo(NamedTuple):
    """Report of a step.

    Attributes:
        tried: evaluations of the loss.
        damping: the damping of the step taken; if none was, the one the step began with.
        taken: whether the parameters moved.
    """

    tried: int
    damping: float
    taken: bool


_LAST_GRADIENT = Forgetting(matrix=0.5, gradient=0.0)


@dataclasses.dataclass(frozen=True)
class LevenbergMarquardt:
    """Levenberg-Marquardt: steps that solve (G + damping D) step = -gradient and are taken if they lower the loss.

    It runs in Python and NumPy around compiled functions, not inside one: `update` evaluates the loss only as often as it must,
    and neither the loss nor the step has to be compiled for it.

    Attributes:
        damping: the initial damping.
        scaling: D = mean(d) (d / mean(d))^scaling, with d the diagonal of G. 1 is Marquardt's choice, which does not depend on
            the parameters' units; 0 is Levenberg's multiple of the identity, which damps directions that hardly change the loss
            as much as the rest.
        tries: the most dampings to try at a step, each `grow` times the last, until one lowers the loss by `trust` times what
            the quadratic predicts, or by less than the one before it; the best is taken. With 0 every step is taken untested.
        grow, trust: see `tries`.
        shrink: divides the damping after a step that was taken.
        limit: the most that any parameter moves in one step, a safeguard against a near-singular G.
        averaging: how the quadratics of earlier batches are averaged: `Forgetting`, `PowerLaw` or `Recent`.

    Raises:
        TypeError, ValueError: for an option out of its range; names it.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> error = lambda p: p[0] * jnp.arange(4.0) + p[1] - jnp.array([1.0, 1.5, 2.0, 2.5])
        >>> loss = lambda p: jnp.sum(error(p) ** 2)
        >>> method, p = LevenbergMarquardt(), jnp.zeros(2)
        >>> state = method.init(p)
        >>> for _ in range(8):
        ...     J = jax.jacfwd(error)(p)
        ...     p, state, info = method.update(Quadratic(loss(p), 2 * J.T @ error(p), 2 * J.T @ J), state, p, loss)
        >>> [round(float(v), 3) for v in p]
        [0.5, 1.0]
    """

    damping: float = 1e-2
    scaling: float = 1.0
    tries: int = 4
    grow: float = 8.0
    trust: float = 0.5
    shrink: float = 4.0
    limit: float = 1.0
    averaging: Forgetting | PowerLaw | Recent = _LAST_GRADIENT

    def __post_init__(self):
        check_count("LevenbergMarquardt.tries", self.tries, 0)
        check_number("LevenbergMarquardt.scaling", self.scaling, 0, 1)
        for name in ("damping", "limit"):
            check_positive(f"LevenbergMarquardt.{name}", getattr(self, name))
        for name in ("grow", "shrink"):
            check_number(f"LevenbergMarquardt.{name}", getattr(self, name), 1)
        check_number("LevenbergMarquardt.trust", self.trust, 0, 1)
        if not isinstance(self.averaging, Forgetting | PowerLaw | Recent):
            check_type("LevenbergMarquardt.averaging", self.averaging, Forgetting, "Forgetting, PowerLaw or Recent")

    def falling(self, factor: float, num_iterations: int) -> "LevenbergMarquardt":
        """The same with a damping that falls by `factor` over so many steps, if all of them are taken.

        Examples:
            >>> round(LevenbergMarquardt().falling(1000.0, 3).shrink, 6)
            10.0
        """
        return dataclasses.replace(self, shrink=factor ** (1 / num_iterations))

    def init(self, params: PyTree) -> LevenbergMarquardtState:
        """The state before the first step, of float32 at least: sums of matrices exceed what float16 holds."""
        leaves = jax.tree.leaves(params)
        size, dtype = sum(leaf.size for leaf in leaves), promote(np.float32, *(leaf.dtype for leaf in leaves))
        return LevenbergMarquardtState(np.asarray(self.damping, dtype), self.averaging.init(size, dtype))

    def update(
        self,
        quadratic: Quadratic,
        state: LevenbergMarquardtState,
        params: PyTree,
        value_fn: Callable | None,
        directions: Float[np.ndarray, "P p"] | None = None,
    ) -> tuple[PyTree, LevenbergMarquardtState, StepInfo]:
        """(new parameters, new state, report). The parameters stay as they are if no step that is tried lowers the loss.

        Args:
            quadratic: the loss near `params`.
            state: what `init` or the last update returned.
            params: any pytree; gradient and matrix are in the order of `ravel_pytree`.
            value_fn: `value_fn(params) -> scalar`, the loss on the same data, called once per try; None if there are no tries.
            directions: restricts the step to the span of these columns; None for no restriction.
        """
        if value_fn is None:
            check_count("LevenbergMarquardt.tries", self.tries, 0, 0)
        flat, unravel = _ravel(params)
        state = jax.tree.map(np.asarray, state)
        damping = state.damping
        if not quadratic.is_finite:  # it must not enter the averages
            return params, state._replace(damping=_bounded(damping * self.grow)), StepInfo(0, float(damping), False)
        memory, matrix, gradient = self.averaging.add(state.memory, quadratic, flat)
        state = state._replace(memory=memory)
        if directions is not None:
            matrix, gradient = directions.T @ matrix @ directions, directions.T @ gradient

        def moved(step):
            return unravel(flat + (step if directions is None else directions @ step))

        if value_fn is None or not self.tries:
            step, _ = _step(matrix, gradient, damping, self.scaling, self.limit)
            info = StepInfo(0, float(damping), True)
            return moved(step), state._replace(damping=_bounded(damping / self.shrink)), info
        # No step lowers the loss: the damping grows once, not to the last one tried, since the batch may be to blame.
        best, least, after, tried, taken = params, float(quadratic.value), damping * self.grow, 0, damping
        for _ in range(self.tries):
            step, promised = _step(matrix, gradient, damping, self.scaling, self.limit)
            candidate = moved(step)
            value, tried = float(value_fn(candidate)), tried + 1
            if value < least:
                best, least, after, taken = candidate, value, damping / self.shrink, damping
            elif best is not params:
                break
            # A try costs a fraction of a linearisation: a step that falls short of its prediction is compared with a shorter one.
            if float(quadratic.value) - least > self.trust * promised:
                break
            damping = damping * self.grow
        info = StepInfo(tried, float(taken), best is not params)
        return best, state._replace(damping=_bounded(after)), info


def _ravel(params):
    """(all parameters as one float64 vector, the inverse function)."""
    leaves, structure = jax.tree.flatten(params)
    arrays = [np.asarray(leaf) for leaf in leaves]

    def unravel(vector):
        parts = np.split(vector, np.cumsum([array.size for array in arrays])[:-1])
        pairs = zip(parts, arrays, strict=True)
        return structure.unflatten(
            [jax.device_put(part.reshape(array.shape).astype(array.dtype)) for part, array in pairs]
        )

    return np.concatenate([array.ravel() for array in arrays]).astype(np.float64), unravel


def _step(matrix, gradient, damping, scaling, limit):
    """The step, and the decrease of the loss that the quadratic predicts."""
    # A parameter with no effect (yet) still needs a positive pivot.
    diagonal = np.diag(matrix)
    diagonal = diagonal + 1e-6 * np.max(diagonal) + np.finfo(diagonal.dtype).tiny
    if scaling != 1:  # Marquardt's as it is, to the bit
        diagonal = np.mean(diagonal) * (diagonal / np.mean(diagonal)) ** scaling
    try:
        step = -np.linalg.solve(matrix + np.diag(damping * diagonal), gradient)
    except np.linalg.LinAlgError:
        step = np.zeros_like(gradient)
    step = np.clip(step if np.all(np.isfinite(step)) else 0 * gradient, -limit, limit)
    return step, -(gradient @ step + 0.5 * step @ matrix @ step)


def _bounded(damping):
    return np.clip(damping, 1e-8, 1e4).astype(damping.dtype)
