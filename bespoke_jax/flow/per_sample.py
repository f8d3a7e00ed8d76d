"""The velocity of a batch of samples that have a condition each."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Float

from bespoke_jax.flow.wrapper import Wrapper
from bespoke_jax.types import Array, PyTree, Scalar, VelocityFunction

__all__ = ["CONDITION", "PerSample", "check_num", "num_of"]

CONDITION = "condition"
"""The entry of a flow's parameters that holds its condition."""


def num_of(conditions: PyTree) -> int:
    """For how many samples there are conditions."""
    return len(jax.tree.leaves(conditions)[0])


def check_num(conditions: PyTree, count: int, name: str) -> None:
    """Raise ValueError, which begins with `name`, unless there are conditions for `count` samples."""
    if num_of(conditions) != count:
        raise ValueError(
            f"{name}: wanted a batch that matches the flow's conditions for {num_of(conditions)} samples, got {count}; use "
            "bespoke_jax.given(flow, conditions) with one condition for each sample."
        )


def _params_of_sample(params: dict, i: Any) -> Any:
    return {**params, CONDITION: jax.tree.map(lambda leaf: leaf[i], params[CONDITION])}


@dataclasses.dataclass(frozen=True)
class PerSample(Wrapper):
    """`velocity(params, t, x)` whose conditions have the batch axis of x. Frozen: equal by value."""

    velocity: VelocityFunction

    @property
    def calls_per_evaluation(self) -> int:
        """The wrapped velocity's."""
        return getattr(self.velocity, "calls_per_evaluation", 1)

    def params_of_samples(self, params: dict, count: int) -> Callable[[Any, Any], Any]:
        """`(params, i) -> the parameters of sample i`, for `Flow.noise`.

        Raises:
            ValueError: unless there are conditions for `count` samples.
        """
        check_num(params[CONDITION], count, "batch_shape")
        return _params_of_sample

    def __call__(self, params: dict, t: Scalar, x: Float[Array, "B *event"]) -> Float[jax.Array, "B *event"]:
        check_num(params[CONDITION], len(x), "x")

        def velocity(condition, x):
            return self.velocity({**params, CONDITION: condition}, t, x[None])[0]

        return jax.vmap(velocity)(params[CONDITION], x)
