"""Velocities made of other velocities."""

from typing import Any

from bespoke_jax.types import VelocityFunction

__all__ = ["Wrapper"]


class Wrapper:
    """A velocity that wraps another one, `velocity`, and passes on the properties of the same names that `Flow` reads."""

    velocity: VelocityFunction

    @property
    def time_range(self) -> tuple[float, float]:
        """The wrapped velocity's."""
        return getattr(self.velocity, "time_range", (0.0, 1.0))

    @property
    def slope_at_noise(self) -> float:
        """The wrapped velocity's."""
        return getattr(self.velocity, "slope_at_noise", 1.0)

    @property
    def outside_jax(self) -> bool:
        """The wrapped velocity's."""
        return getattr(self.velocity, "outside_jax", False)

    @property
    def event(self) -> Any:
        """The wrapped velocity's: the structure of samples that are trees, or None."""
        return getattr(self.velocity, "event", None)
