"""Preconditioning: the coefficients that make a denoiser of a network (Karras et al. 2022, arXiv:2206.00364, Table 1)."""

import dataclasses
import functools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from bespoke_jax import schedulers
from bespoke_jax.checks import check_choice, check_count, check_number, check_positive, check_type
from bespoke_jax.flow.times import step_of_level
from bespoke_jax.types import Array, Numbers

__all__ = ["Preconditioning"]

_KINDS = ("edm", "vp", "ve", "ddpm", "flow")


@dataclasses.dataclass(frozen=True)
class Preconditioning:
    """The coefficients c_skip, c_in, c_out, c_noise of a denoiser as functions of the noise level.

    Attributes:
        kind: "edm", "vp" or "ve" (Karras et al. 2022, Table 1); "ddpm", a network of discrete steps 0..N-1, whose step at other
            levels is interpolated linearly in the logarithm of the level; or "flow", a network that predicts x0 - x1 on the
            straight path (1 - s) x1 + s x0 at the time `steps` s.
        sigma_min, sigma_max: the levels that the network was trained for. Levels outside are replaced by the nearest inside.
        sigma_data: for "edm", the standard deviation of the data.
        beta_min, beta_d, steps: for "vp", levels sqrt(exp(beta_d s^2 / 2 + beta_min s) - 1) at the network's time (steps - 1) s.
        betas: for "ddpm", the variance added by each step.
        prediction: for "ddpm", "noise", "data" or "v" (alpha x0 - sigma x1); for "edm", "noise", or "v" for a network of the
            opposite sign.

    Raises:
        TypeError: if `betas` is not a tuple.
        ValueError: for another kind or prediction, and impossible numbers.
    """

    kind: str
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    sigma_data: float = 0.5
    beta_min: float = 0.1
    beta_d: float = 19.9
    steps: int = 1000
    betas: tuple[float, ...] = ()
    prediction: str = "noise"

    def __post_init__(self):
        predictions = {"ddpm": ("noise", "data", "v"), "edm": ("noise", "v")}
        check_choice("Preconditioning: kind", self.kind, _KINDS)
        if self.prediction not in (allowed := predictions.get(self.kind, ("noise",))):
            raise ValueError(
                f"Preconditioning: prediction: wanted one of {allowed} for {self.kind!r}, got {self.prediction!r}."
            )
        for name in ("sigma_min", "sigma_max", "sigma_data"):
            check_positive(f"Preconditioning: {name}", getattr(self, name))
        for name in ("beta_min", "beta_d"):
            check_number(f"Preconditioning: {name}", getattr(self, name), 0)
        check_count("Preconditioning: steps", self.steps)
        if not self.sigma_min < self.sigma_max:
            raise ValueError(f"Preconditioning: wanted sigma_min < sigma_max, got {self.sigma_min}, {self.sigma_max}.")
        if self.kind == "vp" and self.beta_min + self.beta_d == 0:
            raise ValueError("Preconditioning: wanted beta_min + beta_d > 0, got 0.")
        check_type("Preconditioning: betas", self.betas, tuple, "a tuple of numbers")
        for beta in self.betas:
            check_number("Preconditioning: betas", beta, 0, 1)
        if self.kind == "ddpm":
            _levels(self.betas)  # raises if there are none

    @classmethod
    def ddpm(cls, betas: Numbers, prediction: str = "noise") -> "Preconditioning":
        """The preconditioning of a network trained on steps 0..N-1 (Ho et al. 2020, arXiv:2006.11239).

        Args:
            betas: [N] the variance added by each step.
            prediction: "noise", "data" or "v".

        Raises:
            ValueError: for another prediction, or variances that are not within (0, 1).

        Examples:
            >>> linear = Preconditioning.ddpm(np.linspace(1e-4, 0.02, 1000))
            >>> round(linear.sigma_min, 4), round(linear.sigma_max)
            (0.01, 157)
        """
        levels = schedulers.ddpm_levels(betas)
        variances = tuple(float(beta) for beta in betas)
        return cls("ddpm", float(levels[0]), float(levels[-1]), betas=variances, prediction=prediction)

    @classmethod
    def flow_matching(cls, steps: int = 1000) -> "Preconditioning":
        """The preconditioning of a network that predicts noise - data on the straight path (diffusers' FlowMatch).

        Args:
            steps: the network's time is `steps` s, with s = 1 at noise; at least 3.

        Raises:
            ValueError: for other steps.

        Examples:
            >>> Preconditioning.flow_matching(1000).sigma_max  # s = 1 - 1 / 1000
            999.0
        """
        check_count("steps", steps, 3)
        return cls("flow", 1.0 / (steps - 1), float(steps - 1), steps=steps)

    def coefficients(self, level: Float[Array, "*shape"]) -> tuple[Array, Array, Array, Array]:
        """(c_skip, c_in, c_out, c_noise) at noise levels `level` > 0, each of level's shape."""
        one = jnp.ones_like(level)
        if self.kind == "edm":
            norm = jnp.sqrt(level**2 + self.sigma_data**2)
            sign = -1 if self.prediction == "v" else 1
            return self.sigma_data**2 / norm**2, 1 / norm, sign * level * self.sigma_data / norm, jnp.log(level) / 4
        if self.kind == "ve":
            return one, one, level, jnp.log(level / 2)
        if self.kind == "flow":
            share = level / (1 + level)  # of noise, on the straight path
            return 1 - share, 1 - share, -share, self.steps * share
        alpha = 1 / jnp.sqrt(1 + level**2)
        if self.kind == "vp":
            # Solve beta_d s^2 / 2 + beta_min s = log(1 + level^2), in the form that is accurate for small levels.
            area = 2 * jnp.log1p(level**2)
            s = area / (self.beta_min + jnp.sqrt(self.beta_min**2 + self.beta_d * area))
            return one, alpha, -level, (self.steps - 1) * s
        step = step_of_level(level, _levels(self.betas)).astype(level.dtype)
        if self.prediction == "noise":
            return one, alpha, -level, step
        if self.prediction == "v":
            return alpha**2, alpha, -level * alpha, step
        return 0 * one, alpha, one, step


@functools.lru_cache(maxsize=8)
def _levels(betas: tuple[float, ...]) -> np.ndarray:
    return schedulers.ddpm_levels(betas)
