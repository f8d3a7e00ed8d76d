"""Schedulers: the pair (alpha_t, sigma_t) of a Gaussian path p_t(x | x1) = N(alpha_t x1, sigma_t^2 I).

t = 0 is noise, t = 1 is data, and snr_t = alpha_t / sigma_t grows with t (Sec. 2.2, arXiv:2310.19075). alpha and sigma need not
be exactly 0 and 1 at the ends: those of real models are only close (a variance-preserving one has alpha_0 = 0.0066).
"""

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from bespoke_jax.checks import check_choice, check_number, check_numbers, check_positive
from bespoke_jax.types import Array, ArrayLike, Numbers

__all__ = ["EDM", "CondOT", "Cosine", "Scheduler", "VariancePreserving", "by_name", "ddpm_levels", "from_config"]

_BISECTIONS = 54  # halve [0, 1] down to the last bit of a float64
_LARGEST_LOG = 80.0  # e^80 and e^-80 are normal float32 numbers


class SchedulerValues(NamedTuple):
    """The values of a scheduler at one or several times, and their slopes in t.

    Attributes:
        alpha, sigma, alpha_dot, sigma_dot: of the shape and dtype of t.
    """

    alpha: jax.Array
    sigma: jax.Array
    alpha_dot: jax.Array
    sigma_dot: jax.Array


@dataclasses.dataclass(frozen=True)
class Scheduler:
    """A scheduler made of two differentiable functions of `t` in [0, 1].

    Two schedulers are equal if their functions are the same objects. Define the functions once, at module level, so that a jitted
    function of a flow is compiled only once.

    Args:
        alpha: t -> alpha_t, the factor of the data; increasing (or constant).
        sigma: t -> sigma_t, the standard deviation of the noise; decreasing (or constant).
        name: how it is printed; "" for the names of its functions.

    Raises:
        TypeError: if one of them is not a function.

    Examples:
        >>> straight = Scheduler(lambda t: t, lambda t: 1.0 - t)
        >>> round(float(straight.snr_inverse(straight.snr(0.25))), 5)
        0.25
        >>> EDM()
        EDM(sigma_min=0.002, sigma_max=80, rho=7)
    """

    alpha: Callable[[Any], Any]
    sigma: Callable[[Any], Any]
    name: str = dataclasses.field(default="", compare=False, kw_only=True)

    def __post_init__(self):
        for name in ("alpha", "sigma"):
            if not callable(getattr(self, name)):
                raise TypeError(f"{name}: wanted a function of t, got {getattr(self, name)!r}.")

    def __repr__(self) -> str:
        alpha, sigma = (getattr(function, "__name__", type(function).__name__) for function in (self.alpha, self.sigma))
        return self.name or f"Scheduler({alpha}, {sigma})"

    def at(self, t: ArrayLike) -> SchedulerValues:
        """alpha_t, sigma_t and their slopes alphadot_t, sigmadot_t.

        Args:
            t: times of any shape, in the dtype to compute in; integers become JAX's default floats.

        Returns:
            Four arrays of t's shape and dtype.

        Examples:
            >>> [float(value) for value in CondOT().at(0.25)]
            [0.25, 0.75, 1.0, -1.0]
        """
        t = jnp.asarray(t)
        t = t if jnp.issubdtype(t.dtype, jnp.floating) else t.astype(jnp.result_type(float))
        one = jnp.ones_like(t)
        pairs = [jax.jvp(f, (t,), (one,)) for f in (self.alpha, self.sigma)]
        (alpha, alpha_dot), (sigma, sigma_dot) = (
            [jnp.broadcast_to(jnp.asarray(number, t.dtype), t.shape) for number in pair] for pair in pairs
        )
        return SchedulerValues(alpha, sigma, alpha_dot, sigma_dot)

    def snr(self, t: ArrayLike) -> Float[jax.Array, "..."]:
        """The signal-to-noise ratio alpha_t / sigma_t, of t's shape: 0 at pure noise, infinite at clean data."""
        t = jnp.asarray(t, jnp.result_type(float))
        return self.alpha(t) / self.sigma(t)

    def snr_inverse(self, snr: ArrayLike) -> Float[jax.Array, "..."]:
        """The t in [0, 1] with this signal-to-noise ratio, elementwise; the nearer end if the scheduler does not reach it."""
        snr = jnp.asarray(snr, jnp.result_type(float))
        finite = jnp.where(jnp.isinf(snr), 1.0, snr)
        return self.time_of(jnp.where(jnp.isinf(snr), 1.0, finite), jnp.where(jnp.isinf(snr), 0.0, 1.0))

    def time_of(self, alpha: Float[Array, "..."], sigma: Float[Array, "..."]) -> Float[jax.Array, "..."]:
        """The t in [0, 1] at which alpha_t / sigma_t = alpha / sigma, elementwise; sigma = 0 is allowed.

        Bisection finds the root of alpha_t sigma - sigma_t alpha, which is finite at both ends. Its first derivative comes from
        one Newton step with the root held fixed (the implicit function theorem).

        Args:
            alpha, sigma: floating arrays whose shapes broadcast.
        """
        alpha, sigma = jnp.broadcast_arrays(alpha, sigma)

        def excess(t):
            return self.alpha(t) * sigma - self.sigma(t) * alpha

        def halve(_, bounds):
            low, high = bounds
            middle = 0.5 * (low + high)
            above = excess(middle) > 0
            return jnp.where(above, low, middle), jnp.where(above, middle, high)

        bounds = jnp.zeros_like(alpha), jnp.ones_like(alpha)
        low, high = jax.lax.stop_gradient(jax.lax.fori_loop(0, _BISECTIONS, halve, jax.lax.stop_gradient(bounds)))
        t = 0.5 * (low + high)
        values = self.at(t)
        value = values.alpha * sigma - values.sigma * alpha
        slope = jax.lax.stop_gradient(values.alpha_dot * sigma - values.sigma_dot * alpha)
        # Bisection is exact to the last bit: this step contributes its derivative, not its value.
        newton = -value / jnp.where(slope > 0, slope, jnp.inf)
        return t + newton - jax.lax.stop_gradient(newton)


def _condot_alpha(t):
    return t


def _condot_sigma(t):
    return 1.0 - t


def CondOT() -> Scheduler:
    """The straight path of FM-OT: alpha_t = t, sigma_t = 1 - t (Lipman et al. 2022, arXiv:2210.02747).

    Examples:
        >>> float(CondOT().snr(0.5))
        1.0
    """
    return Scheduler(_condot_alpha, _condot_sigma, name="CondOT()")


def _cosine_alpha(t):
    return jnp.sin(0.5 * math.pi * t)


def _cosine_sigma(t):
    return jnp.sin(0.5 * math.pi * (1.0 - t))  # exactly 0 at t = 1, where cos would round to -4e-8


def Cosine() -> Scheduler:
    """The cosine path of FM/v-CS: alpha_t = sin(pi t / 2), sigma_t = cos(pi t / 2) (Salimans & Ho 2022, arXiv:2202.00512)."""
    return Scheduler(_cosine_alpha, _cosine_sigma, name="Cosine()")


def VariancePreserving(beta_min: float = 0.1, beta_max: float = 20.0) -> Scheduler:
    """The variance-preserving path (eps-VP): alpha_t = xi_{1-t}, sigma_t^2 = 1 - xi_{1-t}^2 (Song et al. 2020, arXiv:2011.13456).

    Here xi_s = exp(-s^2 (beta_max - beta_min) / 4 - s beta_min / 2). sigma_t behaves like sqrt(1 - t) at the data end, where its
    slope would be infinite; 1e-12 under the root keeps the slope finite and sigma_t * sigmadot_t exact.

    Raises:
        ValueError: unless 0 <= beta_min <= beta_max, and beta_max > 0.
    """
    beta_max = check_positive("beta_max", beta_max)
    beta_min = check_number("beta_min", beta_min, 0, beta_max)
    return _variance_preserving(beta_min, beta_max)


@functools.cache  # equal constants give the same functions, and so equal schedulers
def _variance_preserving(beta_min: float, beta_max: float) -> Scheduler:
    def log_xi(t):
        s = 1.0 - t
        return -(s**2) * (beta_max - beta_min) / 4 - s * beta_min / 2

    def alpha(t):
        return jnp.exp(log_xi(t))

    def sigma(t):
        return jnp.sqrt(1e-12 - jnp.expm1(2 * log_xi(t)))

    return Scheduler(alpha, sigma, name=f"VariancePreserving(beta_min={beta_min:g}, beta_max={beta_max:g})")


def EDM(sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> Scheduler:
    """Variance exploding on EDM's grid: alpha_t = 1, sigma_t^(1/rho) linear in t (Karras et al. 2022, eq. 5, arXiv:2206.00364).

    The noise x0 has standard deviation `sigma_max`, not 1; `Flow.noise` draws it accordingly.

    Raises:
        ValueError: unless 0 < sigma_min < sigma_max and rho > 0, with rho large enough that float32 can hold sigma^(1/rho).
    """
    sigma_min, sigma_max = check_positive("sigma_min", sigma_min), check_positive("sigma_max", sigma_max)
    if not sigma_min < sigma_max:
        raise ValueError(f"sigma_min: wanted less than sigma_max={sigma_max}, got {sigma_min}.")
    rho = check_positive("rho", rho)
    if max(abs(math.log(sigma_min)), abs(math.log(sigma_max))) / rho > _LARGEST_LOG:
        raise ValueError(f"rho: wanted sigma^(1/rho) within the range of float32, got rho={rho}; 7 is usual.")
    return _edm(sigma_min, sigma_max, rho)


@functools.cache
def _edm(sigma_min: float, sigma_max: float, rho: float) -> Scheduler:
    start, end = sigma_max ** (1 / rho), sigma_min ** (1 / rho)

    def alpha(t):
        return jnp.ones_like(t)

    def sigma(t):
        return (start + t * (end - start)) ** rho

    return Scheduler(alpha, sigma, name=f"EDM(sigma_min={sigma_min:g}, sigma_max={sigma_max:g}, rho={rho:g})")


_BY_NAME = {"condot": CondOT, "cosine": Cosine, "vp": VariancePreserving, "edm": EDM}


def by_name(name: str, **constants: float) -> Scheduler:
    """The scheduler of this name.

    Args:
        name: "condot", "cosine", "vp" or "edm".
        constants: those that differ from the defaults.

    Raises:
        ValueError: for another name, a constant that the scheduler does not have, or an impossible value; names it.

    Examples:
        >>> by_name("edm", sigma_max=80) == EDM()
        True
    """
    check_choice("scheduler", name, _BY_NAME)
    known = list(inspect.signature(_BY_NAME[name]).parameters)
    for constant in constants:
        if constant not in known:
            wanted = f"one of {known}" if known else "no constants"
            raise ValueError(f"scheduler: wanted {wanted} of {name!r}, got {constant!r}.")
    return _BY_NAME[name](**constants)


def from_config(given: Any) -> Scheduler:
    """The scheduler that a config or a file describes.

    Args:
        given: a name, or a dictionary with the entry "name" and constants, as for `by_name`.

    Raises:
        ValueError: for anything else, and as `by_name`.

    Examples:
        >>> from_config({"name": "edm", "sigma_max": 80}) == from_config("edm")
        True
    """
    if isinstance(given, str):
        return by_name(given)
    if not isinstance(given, Mapping) or "name" not in given or not all(isinstance(key, str) for key in given):
        raise ValueError(f"scheduler: wanted a name, or a dictionary with the entry 'name', got {given!r}.")
    return by_name(**given)


def ddpm_levels(betas: Numbers) -> Float[np.ndarray, "N"]:
    """The noise levels sigma / alpha after each step of a DDPM, alpha^2 = prod (1 - beta) (Ho et al. 2020, arXiv:2006.11239).

    Args:
        betas: [N] the variance added by each step.

    Returns:
        float64 [N].

    Raises:
        ValueError: if `betas` is empty, or one of them not within (0, 1).

    Examples:
        >>> ddpm_levels([0.5, 0.5]).round(3).tolist()
        [1.0, 1.732]
    """
    betas = check_numbers("betas", betas, ("N",))
    if not np.all((betas > 0) & (betas < 1)):
        raise ValueError(f"betas: wanted a list of numbers within (0, 1), got {betas[:4]} ...")
    return np.sqrt(np.expm1(-np.cumsum(np.log1p(-betas))))
