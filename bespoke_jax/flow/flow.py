"""The flow: a velocity field u_t(x) with its network parameters, as one pytree."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from bespoke_jax.checks import check_choice, check_float_dtype, check_key, check_number, check_numeric, check_shape
from bespoke_jax.dtypes import promote
from bespoke_jax.schedulers import Scheduler

__all__ = ["PREDICTIONS", "Flow"]


@jax.tree_util.register_pytree_with_keys_class
class Flow:
    """A pre-trained flow: `x'(t) = u_t(x)` carries noise x0 (t = 0) to data x1 (t = 1).

    A flow is a pytree whose leaves are the network's parameters; everything else is static. It may be passed through
    `jit`, `vmap`, `pmap`, sharded and donated like any tree of arrays.

    Args:
        velocity: `velocity(params, t, x) -> array of x's shape`, traceable by JAX, under `vmap` too; t is a scalar of x's dtype
            (float32 at least), x is [B, *event_shape] with exactly one batch axis, whatever batch shape the caller used. It
            must treat the samples of a batch independently. It may compute in a lower precision (bfloat16): its result is cast
            to x's dtype.
        params: the network's parameters, any pytree of arrays.
        event_shape: shape of one sample, e.g. (32, 32, 3); () for scalars.
        scheduler: the scheduler that the flow was trained with, if known. It sets the scale of the noise (for `EDM`)
            and gives `fit` more start curves to choose from; everything works without it.

    Raises:
        TypeError, ValueError: if an argument is of the wrong kind.

    Examples:
        >>> import jax.numpy as jnp
        >>> flow = Flow(lambda params, t, x: -params * x, jnp.float32(2.0), event_shape=(3,))
        >>> flow(0.5, jnp.ones((4, 3))).shape
        (4, 3)
    """

    def __init__(
        self, velocity: Callable, params: Any, event_shape: tuple[int, ...], scheduler: Scheduler | None = None
    ):
        if not callable(velocity):
            raise TypeError(f"Flow: velocity must be a function of (params, t, x), got {type(velocity).__name__}.")
        if scheduler is not None and not isinstance(scheduler, Scheduler):
            raise TypeError(f"Flow: scheduler must be a bespoke_jax.schedulers.Scheduler or None, got {scheduler!r}.")
        _check_params(params)
        self.velocity = velocity
        self.params = params
        self.event_shape = check_shape("event_shape", event_shape)
        self.scheduler = scheduler

    def tree_flatten_with_keys(self):
        return ((jax.tree_util.GetAttrKey("params"), self.params),), (self.velocity, self.event_shape, self.scheduler)

    @classmethod
    def tree_unflatten(cls, static, children):
        flow = object.__new__(cls)
        (flow.params,) = children
        flow.velocity, flow.event_shape, flow.scheduler = static
        return flow

    def __repr__(self):
        name = getattr(self.velocity, "__name__", type(self.velocity).__name__)
        return f"Flow({name}, event_shape={self.event_shape}, scheduler={self.scheduler})"

    @property
    def calls_per_evaluation(self) -> int:
        """Network calls of one velocity evaluation: 2 with `guided`, else 1.

        NFE and every cost here count velocity evaluations; times this they are network calls.
        """
        return getattr(self.velocity, "calls_per_evaluation", 1)

    @property
    def time_range(self) -> tuple[float, float]:
        """(first, last) time at which the velocity is evaluated; a time outside is replaced by the nearer of them.

        (0, 1) unless `from_prediction` keeps a margin from a singular end. A program that runs a solver without this flow has to
        keep to it: `save_solver(..., flow=flow)` writes such times.
        """
        return getattr(self.velocity, "time_range", (0.0, 1.0))

    @property
    def slope_at_noise(self) -> float:
        """By how much the velocity's slope in x at t = 0 changes with the slope of what the network predicts.

        1 unless `from_prediction` divides a noise or score prediction by a small alpha_t there.
        """
        return getattr(self.velocity, "slope_at_noise", 1.0)

    def batch_shape(self, x, name: str = "x") -> tuple[int, ...]:
        """The leading axes of `x`, after checking that it is a floating array of trailing shape `event_shape`."""
        shape, dtype, ndim = *check_numeric(name, x), len(self.event_shape)
        if shape[len(shape) - ndim :] != self.event_shape or len(shape) < ndim:
            raise ValueError(f"{name}: wanted shape [*batch, {', '.join(map(str, self.event_shape))}], got {shape}.")
        if not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(f"{name}: wanted a floating dtype, got {dtype}.")
        return shape[: len(shape) - ndim]

    def __call__(self, t, x):
        """u_t(x), for a scalar `t` and `x` of shape [*batch, *event_shape]; the result has x's shape and dtype.

        Raises:
            ValueError: if x does not end in the event shape, t is no scalar, or the velocity returns another shape.
            TypeError: if the velocity returns something other than one floating array no wider than x.
        """
        batch = self.batch_shape(x)
        shape, dtype = check_numeric("t", t)
        if shape:
            raise ValueError(f"t: wanted a scalar, got shape {shape}; use jax.vmap for several times.")
        if jnp.issubdtype(dtype, jnp.complexfloating):
            raise TypeError(f"t: wanted a real number, got {dtype}.")
        flat = jnp.reshape(x, (-1, *self.event_shape))
        # A time wider than the state would widen what the network returns; one narrower than float32 is no time.
        t = jnp.asarray(t, promote(flat.dtype, jnp.float32))
        return jnp.reshape(_call("velocity", self.velocity, self.params, t, flat), (*batch, *self.event_shape))

    def noise(self, key, batch_shape: tuple[int, ...] = (), dtype=jnp.float32):
        """Draw x0 of shape [*batch_shape, *event_shape] from N(0, sigma_0^2); sigma_0 = 1 without a scheduler."""
        check_key(key)
        check_float_dtype("dtype", dtype)
        batch_shape = check_shape("batch_shape", batch_shape)
        x0 = jax.random.normal(key, (*batch_shape, *self.event_shape), dtype)
        if self.scheduler is None:
            return x0
        return x0 * jnp.asarray(self.scheduler.sigma(jnp.zeros((), jnp.float32)), dtype)

    @classmethod
    def from_prediction(cls, network, params, event_shape, scheduler, prediction="noise", time_margin=None):
        """A flow from a network that predicts something other than the velocity (Sec. 2.2; Salimans & Ho 2022 for "v").

        Args:
            network: `network(params, t, x) -> prediction`, of x's shape; t in [0, 1], 0 at noise.
            params, event_shape: as for `Flow`.
            scheduler: the scheduler it was trained with; required.
            prediction: "noise" (E[x0|x]), "data" (E[x1|x]), "score" (grad log p_t), "v" (alpha x0 - sigma x1) or "velocity".
            time_margin: noise and score predictions are divided by alpha_t, noise, data and v predictions by sigma_t. Times
                within the margin of 0 or 1 use the nearest time inside. None for 1e-3 at an end where the divisor vanishes,
                else 0: under EDM, none at all.

        Raises:
            TypeError: if `scheduler` is not a Scheduler; when called, if the prediction is not a floating array.
            ValueError: for another prediction or margin; when called, if the prediction is not of x's shape.

        Examples:
            >>> import jax.numpy as jnp
            >>> from bespoke_jax import schedulers
            >>> flow = Flow.from_prediction(lambda p, t, x: 0.0 * x, None, (2,), schedulers.CondOT(), prediction="data")
            >>> [float(v) for v in flow(0.5, jnp.ones(2))]  # towards the data mean, 0: u = -x / sigma
            [-2.0, -2.0]
        """
        if not isinstance(scheduler, Scheduler):
            raise TypeError(
                f"from_prediction: scheduler must be a bespoke_jax.schedulers.Scheduler, got {scheduler!r}."
            )
        check_choice("prediction", prediction, PREDICTIONS)
        if not callable(network):
            raise TypeError(
                f"from_prediction: network must be a function of (params, t, x), got {type(network).__name__}."
            )
        if time_margin is None:
            time_range = _regular_times(scheduler, prediction)
        else:
            margin = check_number("time_margin", time_margin, 0, 0.5)
            if margin == 0.5:
                raise ValueError("time_margin: wanted a number from 0 to 0.5, less than that, got 0.5.")
            time_range = (margin, 1 - margin)
        if prediction != "velocity":
            network = _PredictionVelocity(network, scheduler, prediction, time_range)
        return cls(network, params, event_shape, scheduler)


def _check_params(params):
    """Raise TypeError, which names the leaf, if the parameters hold what is no array: a function or a text."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if callable(leaf) or isinstance(leaf, str | bytes):
            what = f"the function {getattr(leaf, '__name__', leaf)!r}" if callable(leaf) else repr(leaf)
            raise TypeError(
                f"params: wanted a tree of arrays, got {what} at params{jax.tree_util.keystr(path)}. Of an Equinox module the "
                "arrays alone are parameters: arrays, static = eqx.partition(module, eqx.is_array), and eqx.combine(params, "
                "static) in the velocity."
            )


def _like(x, out, name, what="the velocity"):
    """`out`, which the function called `name` returned, in x's dtype, after checking that it is one array like x."""
    if not hasattr(out, "shape") or not hasattr(out, "dtype"):
        raise TypeError(f"{name}: wanted one array of shape {x.shape}, {what}, got {type(out).__name__}.")
    if out.shape != x.shape:
        raise ValueError(f"{name}: given x of shape {x.shape} it returned shape {out.shape}; they must agree.")
    if not jnp.issubdtype(out.dtype, jnp.floating) or promote(out.dtype, x.dtype) != x.dtype:
        raise TypeError(
            f"{name}: given x of dtype {x.dtype} it returned {out.dtype}; "
            f"wanted {x.dtype} or a narrower float (cast the network's output)."
        )
    return jnp.asarray(out).astype(x.dtype)


def _call(name, function, params, t, x, what="the velocity"):
    """What a function of the user's gives at (t, x), in x's dtype, after checking that it is one array like x."""
    try:
        out = function(params, t, x)
    except Exception as error:
        if not _takes_times(function, params, t, x):
            raise
        raise ValueError(
            f"{name}: wanted one that takes t as a scalar, got one that takes a time for each sample ({type(error).__name__} "
            f"on a scalar). Give it as lambda params, t, x: {name}(params, jnp.full(x.shape[0], t), x)."
        ) from error
    return _like(x, out, name, what)


def _takes_times(function, params, t, x) -> bool:
    """Whether a function that failed on a scalar time takes one for each sample."""
    times = jax.ShapeDtypeStruct(x.shape[:1], t.dtype)
    try:
        out = jax.eval_shape(function, params, times, jax.ShapeDtypeStruct(x.shape, x.dtype))
    except Exception:  # of the user's code, of any kind
        return False
    return getattr(out, "shape", None) == x.shape and jnp.issubdtype(out.dtype, jnp.floating)


_VANISHES = 1e-4  # alpha or sigma as small as this is no divisor: EDM's sigma_min is 2e-3


def _regular_times(scheduler, prediction) -> tuple[float, float]:
    """Between which times what the prediction is divided by does not vanish."""
    alpha_0, sigma_1 = float(scheduler.alpha(jnp.zeros(()))), float(scheduler.sigma(jnp.ones(())))
    first = _MARGIN if prediction in ("noise", "score") and alpha_0 < _VANISHES else 0.0
    last = _MARGIN if prediction in ("noise", "data", "v") and sigma_1 < _VANISHES else 0.0
    return first, 1.0 - last


_MARGIN = 1e-3

# prediction -> (x1, x0/sigma) from (output, x, alpha, sigma). x0/sigma = -score stays finite where sigma goes to 0.


def _from_noise(out, x, alpha, sigma):
    return (x - sigma * out) / alpha, out / sigma


def _from_data(out, x, alpha, sigma):
    return out, (x - alpha * out) / sigma**2


def _from_score(out, x, alpha, sigma):
    return (x + sigma**2 * out) / alpha, -out


def _from_v(out, x, alpha, sigma):
    # Solve x = alpha x1 + sigma x0, v = alpha x0 - sigma x1. (The velocity of the cosine path is -pi/2 v.)
    norm = alpha**2 + sigma**2
    return (alpha * x - sigma * out) / norm, (sigma * x + alpha * out) / (norm * sigma)


PREDICTIONS = {"noise": _from_noise, "data": _from_data, "score": _from_score, "v": _from_v, "velocity": None}


@dataclasses.dataclass(frozen=True)
class _PredictionVelocity:
    """u = alphadot x1 + sigmadot x0, with x1 and x0 read off a network's prediction. Frozen: equal by value."""

    network: Callable
    scheduler: Scheduler
    prediction: str
    time_range: tuple[float, float]

    @property
    def slope_at_noise(self) -> float:
        """alphadot / alpha of a noise or score prediction."""
        if self.prediction not in ("noise", "score"):
            return 1.0
        t = jnp.asarray(self.time_range[0], jnp.float32)
        alpha, alpha_dot = jax.jvp(self.scheduler.alpha, (t,), (jnp.ones_like(t),))
        return max(1.0, abs(float(alpha_dot) / float(alpha)))

    def __call__(self, params, t, x):
        t = jnp.clip(jnp.asarray(t, promote(x.dtype, jnp.float32)), *self.time_range)
        out = _call("network", self.network, params, t, x, f"the {self.prediction} prediction")
        one = jnp.ones_like(t)
        (alpha, alpha_dot), (sigma, sigma_dot) = (
            tuple(c.astype(x.dtype) for c in jax.jvp(f, (t,), (one,)))
            for f in (self.scheduler.alpha, self.scheduler.sigma)
        )
        x1, x0_over_sigma = PREDICTIONS[self.prediction](out, x, alpha, sigma)
        return alpha_dot * x1 + (sigma_dot * sigma) * x0_over_sigma
