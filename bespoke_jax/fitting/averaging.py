"""What a step of Levenberg-Marquardt remembers of earlier batches: means of their quadratics.

A batch of a few paths gives a noisy quadratic, and many small steps gain more than few accurate ones. So a step minimises a mean
of the quadratics so far, each of which holds near where it was taken. Each class here says how it is formed: `init` gives an
empty memory, and `add` the memory with one quadratic more, and the mean's matrix and gradient at the present parameters.

Memories are tuples of NumPy arrays, or of JAX's as a checkpoint library returns them.
"""

import dataclasses
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from bespoke_jax.checks import check_count, check_number
from bespoke_jax.fitting.gauss_newton import Quadratic
from bespoke_jax.types import Array

__all__ = ["Forgetting", "PowerLaw", "Recent", "RunningAverage", "RunningSums", "Window"]


class RunningSums(NamedTuple):
    """The memory of `Forgetting` and `PowerLaw`.

    Attributes:
        matrix, weight: running sums of Gauss-Newton matrices [P, P] and of their weights [].
        gradient, place, gradient_weight: running sums of gradients [P], of the parameters where they were taken [P], and of
            their weights [].
    """

    matrix: Array
    weight: Array
    gradient: Array
    place: Array
    gradient_weight: Array


class RunningAverage:
    """What `Forgetting` and `PowerLaw` share: sums in which the earlier quadratics count for less by the factors `memories`."""

    def memories(self, memory: RunningSums) -> tuple[float, float]:
        """Factors of the sums of matrices and of gradients so far, applied before the next is added."""
        raise NotImplementedError

    def init(self, size: int, dtype: np.dtype) -> RunningSums:
        """The memory of nothing, for `size` parameters."""
        none, nowhere = np.zeros((), dtype), np.zeros(size, dtype)
        return RunningSums(np.zeros((size, size), dtype), none, nowhere, nowhere, none)

    def add(
        self, memory: RunningSums, quadratic: Quadratic, flat: Float[np.ndarray, "P"]
    ) -> tuple[RunningSums, np.ndarray, np.ndarray]:
        """(memory, mean matrix, mean gradient) with a quadratic taken at the parameters `flat`."""
        by_matrix, by_gradient = self.memories(memory)
        matrix, weight = _summed(by_matrix, memory.matrix, memory.weight, quadratic.matrix)
        past, gradient_weight = _summed(by_gradient, memory.gradient, memory.gradient_weight, quadratic.gradient)
        place, _ = _summed(by_gradient, memory.place, memory.gradient_weight, flat)
        mean = matrix.astype(np.float64) / weight
        moved = flat.astype(place.dtype) - place / gradient_weight  # since the gradients were taken, on average
        gradient = past.astype(np.float64) / gradient_weight + mean @ moved
        return RunningSums(matrix, weight, past, place, gradient_weight), mean, gradient


@dataclasses.dataclass(frozen=True)
class Forgetting(RunningAverage):
    """Exponential forgetting: each quadratic has a fixed factor times the weight of the next one.

    The matrices are estimates from different samples and change more slowly than they scatter, so averaging them helps. With the
    gradients averaged too, each carried by the mean matrix from where it was taken to the present parameters, a step minimises
    about the average of the quadratics of all batches so far, and small batches suffice (incremental Gauss-Newton, the extended
    Kalman filter with forgetting: Bertsekas 1996, SIAM J. Optim. 6(3)).

    Args:
        matrix, gradient: the factors, from 0 (the last alone) to 1.

    Raises:
        ValueError: for other numbers.
    """

    matrix: float = 0.5
    gradient: float = 0.0

    def __post_init__(self):
        for name in ("matrix", "gradient"):
            check_number(f"Forgetting.{name}", getattr(self, name), 0, 1)

    def memories(self, memory: RunningSums) -> tuple[float, float]:
        """As `RunningAverage.memories`."""
        return self.matrix, self.gradient


@dataclasses.dataclass(frozen=True)
class PowerLaw(RunningAverage):
    """Polynomial-decay averaging (Shamir and Zhang 2013, ICML): after k steps, step j has a weight of about (j / k)^power.

    The average reaches back over a share 1 / (1 + power) of all steps so far. That is not far at first, while the parameters move
    much, and far at the end, when only scatter keeps them from the minimum.

    Args:
        matrix, gradient: the powers, >= 0.

    Raises:
        ValueError: for other numbers.
    """

    matrix: float = 2.0
    gradient: float = 3.0

    def __post_init__(self):
        for name in ("matrix", "gradient"):
            check_number(f"PowerLaw.{name}", getattr(self, name), 0)

    def memories(self, memory: RunningSums) -> tuple[float, float]:
        """As `RunningAverage.memories`."""
        return _memory_of(self.matrix, memory.weight), _memory_of(self.gradient, memory.gradient_weight)


class Window(NamedTuple):
    """The memory of `Recent`: a ring of the last k quadratics.

    Attributes:
        matrices, gradients, places: [k, P, P], [k, P] and, where they were taken, [k, P].
        count: [] quadratics so far; number `count` takes the place `count` mod k.
    """

    matrices: Array
    gradients: Array
    places: Array
    count: Array


@dataclasses.dataclass(frozen=True)
class Recent:
    """The last few quadratics, each carried by its own matrix from where it was taken to the present parameters.

    A stage with this memory takes its paths in turn. If a memory of k batches holds each path once, a step minimises a quadratic
    of all paths for the price of one batch, without the scatter of batches (incremental Gauss-Newton with a quadratic of each
    component: Bertsekas 1996, SIAM J. Optim. 6(3); Rodomanov and Kropotov 2016, ICML, who show superlinear convergence).

    Args:
        batches: k, at least 1.
        factor: each quadratic has this times the weight of the next one, from 0 to 1.

    Raises:
        TypeError, ValueError: for other numbers.

    Examples:
        >>> import bespoke_jax as bj
        >>> steps = bj.LevenbergMarquardt(averaging=Recent(batches=4))
        >>> bj.Stage(optimizer=steps, batch_size=32).takes_turns  # for 128 paths, so that each is remembered
        True
    """

    batches: int = 8
    factor: float = 0.9

    def __post_init__(self):
        check_count("Recent.batches", self.batches)
        check_number("Recent.factor", self.factor, 0, 1)

    def init(self, size: int, dtype: np.dtype) -> Window:
        """The memory of nothing, for `size` parameters."""
        rows = np.zeros((self.batches, size), dtype)
        return Window(np.zeros((self.batches, size, size), dtype), rows, rows, np.zeros((), np.int32))

    def add(
        self, memory: Window, quadratic: Quadratic, flat: Float[np.ndarray, "P"]
    ) -> tuple[Window, np.ndarray, np.ndarray]:
        """(memory, mean matrix, mean gradient) with a quadratic taken at the parameters `flat`."""
        matrices, gradients, places = (np.array(value) for value in memory[:3])
        count = int(memory.count)
        slot = count % self.batches
        matrices[slot], gradients[slot], places[slot] = quadratic.matrix, quadratic.gradient, flat
        ages = (slot - np.arange(self.batches)) % self.batches
        weights = np.where(ages <= count, float(self.factor) ** ages, 0.0)
        weights /= weights.sum()
        moved = flat - places.astype(np.float64)
        carried = gradients + np.einsum("kpq,kq->kp", matrices.astype(np.float64), moved)
        mean = np.tensordot(weights, matrices.astype(np.float64), axes=1)
        return Window(matrices, gradients, places, np.asarray(count + 1, np.int32)), mean, weights @ carried


def _memory_of(power: float, weight: Any) -> float:
    """k / (k + power) after k values, whose weights k (k - 1) ... / ((k + power) ...) behave like (j / k)^power.

    The sum of the weights of k values, (k + power) / (1 + power), gives k.
    """
    count = np.round((1 + power) * weight - power) if weight > 0 else 0.0
    return count / (count + power) if count else 0.0


def _summed(memory: float, total: Any, weight: Any, value: Any) -> tuple[Any, Any]:
    """(running sum, weight) with one more value, in the state's dtype, so that a restored state continues with the same bits."""
    return (memory * total + np.asarray(value)).astype(total.dtype), (memory * weight + 1).astype(weight.dtype)
