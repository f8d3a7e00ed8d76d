"""A denoiser: a network with its preconditioning, from which the flow under any scheduler follows.

All diffusion models are denoisers D(y, level) = E[x1 | x1 + level x0 = y] once the data is not scaled (Karras et al. 2022,
arXiv:2206.00364, Table 1): D(y, level) = c_skip y + c_out network(c_in y, c_noise). At time t of a scheduler the level is
sigma_t / alpha_t and y = x / alpha_t, so E[x1 | x_t = x] = D(x / alpha_t, sigma_t / alpha_t).
"""

import dataclasses
import functools

import flax
import jax
import jax.numpy as jnp
import numpy as np

from bespoke_jax import schedulers
from bespoke_jax.checks import check_count, check_number, check_positive, check_shape, check_type
from bespoke_jax.flow.flow import Flow
from bespoke_jax.models.labels import labelled, with_labels

__all__ = ["Denoiser", "DenoiserPrediction", "Preconditioning", "ReversedVelocity"]


@dataclasses.dataclass(frozen=True)
class Preconditioning:
    """How a network becomes a denoiser: c_skip, c_in, c_out, c_noise as functions of the noise level.

    Attributes:
        kind: "edm", "vp", "ve" (Karras et al. 2022, Table 1); "ddpm": a network of discrete steps 0..N-1, whose step at a level
            between those it was trained on is interpolated linearly in the logarithm of the level; or "flow": a network that
            predicts x0 - x1 on the straight path (1 - s) x1 + s x0, asked at the time `steps` s.
        sigma_min, sigma_max: the levels that the network was trained for. Levels outside use the nearest inside.
        sigma_data: standard deviation of the data, of "edm".
        beta_min, beta_d, steps: of "vp": levels sqrt(exp(beta_d s^2 / 2 + beta_min s) - 1), the network's time (steps - 1) s.
        betas: of "ddpm": the variance added by each of the steps.
        prediction: of "ddpm": "noise", "data" or "v" (alpha x0 - sigma x1); of "edm": "noise", or "v" for a network of the
            opposite sign.

    Raises:
        ValueError: for another kind or prediction, and numbers that cannot be.
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
        if self.kind not in _KINDS:
            raise ValueError(f"Preconditioning: kind must be one of {_KINDS}, got {self.kind!r}.")
        if self.prediction not in (allowed := predictions.get(self.kind, ("noise",))):
            raise ValueError(
                f"Preconditioning: prediction must be one of {allowed} for {self.kind!r}, got {self.prediction!r}."
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
            _levels(self.betas)  # checks that there are some

    @classmethod
    def ddpm(cls, betas, prediction: str = "noise"):
        """Of a network trained on the steps 0..N-1 that add the variances `betas` (Ho et al. 2020, arXiv:2006.11239).

        Examples:
            >>> linear = Preconditioning.ddpm(np.linspace(1e-4, 0.02, 1000))
            >>> round(linear.sigma_min, 4), round(linear.sigma_max)
            (0.01, 157)
        """
        levels = schedulers.ddpm_levels(betas)
        betas = tuple(float(beta) for beta in betas)
        return cls("ddpm", float(levels[0]), float(levels[-1]), betas=betas, prediction=prediction)

    @classmethod
    def flow_matching(cls, steps: int = 1000):
        """Of a network that predicts noise - data on the straight path, at times `steps` s, s = 1 noise (diffusers' FlowMatch).

        Examples:
            >>> Preconditioning.flow_matching(1000).sigma_max  # s = 1 - 1 / 1000
            999.0
        """
        check_count("steps", steps, 3)
        return cls("flow", 1.0 / (steps - 1), float(steps - 1), steps=steps)

    def coefficients(self, level):
        """(c_skip, c_in, c_out, c_noise) at noise levels `level` > 0, each of its shape."""
        one = jnp.ones_like(level)
        if self.kind == "edm":
            norm = jnp.sqrt(level**2 + self.sigma_data**2)
            sign = -1 if self.prediction == "v" else 1
            return self.sigma_data**2 / norm**2, 1 / norm, sign * level * self.sigma_data / norm, jnp.log(level) / 4
        if self.kind == "ve":
            return one, one, level, jnp.log(level / 2)
        if self.kind == "flow":
            share = level / (1 + level)  # of the noise, on the straight path
            return 1 - share, 1 - share, -share, self.steps * share
        alpha = 1 / jnp.sqrt(1 + level**2)
        if self.kind == "vp":
            # s with beta_d s^2 / 2 + beta_min s = log(1 + level^2), in the form that keeps its digits for small levels.
            area = 2 * jnp.log1p(level**2)
            s = area / (self.beta_min + jnp.sqrt(self.beta_min**2 + self.beta_d * area))
            return one, alpha, -level, (self.steps - 1) * s
        step = jnp.interp(jnp.log(level), np.log(_levels(self.betas)), np.arange(len(self.betas), dtype=np.float64))
        step = step.astype(level.dtype)
        if self.prediction == "noise":
            return one, alpha, -level, step
        if self.prediction == "v":
            return alpha**2, alpha, -level * alpha, step
        return 0 * one, alpha, one, step


_KINDS = ("edm", "vp", "ve", "ddpm", "flow")


@functools.lru_cache(maxsize=8)
def _levels(betas: tuple[float, ...]) -> np.ndarray:
    return schedulers.ddpm_levels(betas)


@dataclasses.dataclass(frozen=True)
class DenoiserPrediction:
    """`network(params, t, x) -> E[x1 | x_t = x]` for `Flow.from_prediction`, at the times of `scheduler`. Equal by value."""

    network: flax.linen.Module
    preconditioning: Preconditioning
    scheduler: schedulers.Scheduler

    def __call__(self, params, t, x):
        alpha, sigma = (f(t).astype(x.dtype) for f in (self.scheduler.alpha, self.scheduler.sigma))
        p = self.preconditioning
        # Near pure noise sigma / alpha passes sigma_max, where x / alpha is nothing but noise: scaled to sigma_max, it is
        # an input that the network knows, with an answer that is off by O(1 / sigma_max). Near clean data x itself is kept.
        level = jnp.clip(sigma / alpha, p.sigma_min, p.sigma_max)
        scale = jnp.where(level < sigma / alpha, level / sigma, 1 / alpha)
        return denoise(self.network, p, params, scale * x, level)


@dataclasses.dataclass(frozen=True)
class ReversedVelocity:
    """`(params, t, x) -> velocity` under CondOT of a network of kind "flow", whose time runs from `steps` (noise) to 0 (data)."""

    network: flax.linen.Module
    steps: int

    def __call__(self, params, t, x):
        return -self.network.apply(params, jnp.broadcast_to(self.steps * (1 - t), x.shape[:1]), x)


def denoise(network, preconditioning: Preconditioning, variables, y, level):
    """D(y, level) for y [B, H, W, C] and levels [] or [B]."""
    level = jnp.broadcast_to(jnp.asarray(level, y.dtype), y.shape[:1])
    c_skip, c_in, c_out, c_noise = preconditioning.coefficients(level)
    c_skip, c_in, c_out = (c[:, None, None, None] for c in (c_skip, c_in, c_out))
    return c_skip * y + c_out * network.apply(variables, c_noise, c_in * y)


class Denoiser:
    """A pre-trained denoiser of images.

    Args:
        network: a Flax module called as `network.apply(variables, time, x)`.
        variables: its variables, with `condition/label` if it is conditional.
        event_shape: (H, W, C).
        preconditioning: what the network predicts.

    Attributes:
        num_classes: length of its class label; 0 if unconditional.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from bespoke_jax.models import ADM
        >>> net = ADM(channels=(8,), num_blocks=1, heads=(0,), middle_heads=0, time_channels=8, num_classes=10)
        >>> variables = jax.eval_shape(net.init, jax.random.key(0), 0.0, jnp.zeros((1, 4, 4, 3)))  # or real ones
        >>> model = Denoiser(net, variables, (4, 4, 3), Preconditioning("edm"))
        >>> model
        Denoiser(ADM, edm, (4, 4, 3), 10 classes)
        >>> model.flow(labels=7).event_shape
        (4, 4, 3)
    """

    def __init__(self, network, variables, event_shape, preconditioning: Preconditioning):
        self.network = network
        self.variables = variables
        self.event_shape = check_shape("event_shape", event_shape)
        self.preconditioning = check_type("preconditioning", preconditioning, Preconditioning, "a Preconditioning")
        self.num_classes = network.num_classes

    def __repr__(self):
        classes = f", {self.num_classes} classes" if self.num_classes else ""
        return f"Denoiser({type(self.network).__name__}, {self.preconditioning.kind}, {self.event_shape}{classes})"

    def denoise(self, x, sigma, labels=None):
        """E[x1 | x1 + sigma x0 = x]: the clean images expected from noisy ones.

        Args:
            x: [B, H, W, C].
            sigma: the standard deviation of the noise, [] or [B].
            labels: for a conditional network: a class, [B] classes, or their weights [B, num_classes]; None for no class (zeros).

        Raises:
            ValueError: for an x of another shape, a sigma that is not positive, or labels that the network does not have.
        """
        x = jnp.asarray(x)
        if x.shape[1:] != self.event_shape or jnp.shape(sigma) not in ((), x.shape[:1]):
            wanted = f"x [B, {', '.join(map(str, self.event_shape))}] and sigma [] or [B]"
            raise ValueError(f"denoise: wanted {wanted}, got {x.shape} and {jnp.shape(sigma)}.")
        if not isinstance(sigma, jax.core.Tracer) and not np.all(np.asarray(sigma) > 0):
            raise ValueError(f"denoise: wanted sigma > 0, got {np.min(sigma)}.")
        return denoise(
            self.network, self.preconditioning, with_labels(self.variables, labels, self.num_classes), x, sigma
        )

    @property
    def usual_scheduler(self) -> dict:
        """What `flow` takes if not told: EDM's scheduler, from sigma_max (at most 80) to sigma_min (at least 0.002).

        CondOT for a network of kind "flow".
        """
        p = self.preconditioning
        if p.kind == "flow":
            return {"name": "condot"}
        return {"name": "edm", "sigma_min": max(p.sigma_min, 0.002), "sigma_max": min(p.sigma_max, 80.0)}

    def flow(self, scheduler=None, labels=None, time_margin: float | None = None) -> Flow:
        """The flow of this denoiser under a scheduler.

        Args:
            scheduler: a `schedulers.Scheduler`, its name ("edm", "vp", "cosine", "condot"), or a dictionary of name and
                constants; None for `self.usual_scheduler`.
            labels: one class, or weights [num_classes]; classes [B] or weights [B, num_classes] for a class of each sample
                (`bespoke_jax.given`), "all" for every class once; None for no class (zeros, as EDM's own code has it; a
                network trained without dropped labels has never seen that).
            time_margin: times within it of 0 and of 1 use the nearest time inside. None is 0 where the scheduler is regular
                at both ends (EDM), else 1e-3: the velocity divides by alpha, which is 0 at t = 0 (CondOT, cosine), and by sigma,
                which is 0 at t = 1. Noise levels outside [sigma_min, sigma_max] of the network are moved there in any case.
                A network of kind "flow" under CondOT is its own velocity: no margin, and no level is moved.

        Raises:
            ValueError: for an unknown scheduler, and labels that the network does not have.
        """
        scheduler = self.usual_scheduler if scheduler is None else scheduler
        if isinstance(scheduler, str | dict):
            scheduler = schedulers.from_config(scheduler)
        if self.preconditioning.kind == "flow" and scheduler == schedulers.CondOT() and not time_margin:
            velocity = ReversedVelocity(self.network, self.preconditioning.steps)  # regular at both ends
            return labelled(Flow(velocity, self.variables, self.event_shape, scheduler), labels, self.num_classes)
        if time_margin is None:
            ends = [float(value) for value in (scheduler.alpha(jnp.zeros(())), scheduler.sigma(jnp.ones(())))]
            time_margin = 0.0 if min(ends) > 1e-4 else 1e-3
        prediction = DenoiserPrediction(self.network, self.preconditioning, scheduler)
        flow = Flow.from_prediction(prediction, self.variables, self.event_shape, scheduler, "data", time_margin)
        return labelled(flow, labels, self.num_classes)
