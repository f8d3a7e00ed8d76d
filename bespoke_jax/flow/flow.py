"""The flow: a velocity field u_t(x) with its network parameters, as one pytree."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float

from bespoke_jax.checks import check_float_dtype, check_key, check_numeric, check_shape
from bespoke_jax.dtypes import promote
from bespoke_jax.flow.call import call
from bespoke_jax.flow.prediction import velocity_of_prediction
from bespoke_jax.schedulers import Scheduler
from bespoke_jax.types import Array, DTypeLike, KeyArray, PyTree, Scalar, VelocityFunction

__all__ = ["Flow"]


@jax.tree_util.register_pytree_with_keys_class
class Flow:
    """A pre-trained flow: `x'(t) = u_t(x)` carries noise x0 (t = 0) to data x1 (t = 1).

    A flow is a pytree whose leaves are the network's parameters; everything else is static. Like any tree of arrays, it can be
    passed through `jit`, `vmap` and `pmap`, sharded and donated.

    Args:
        velocity: `velocity(params, t, x) -> array of x's shape`, traceable by JAX, also under `vmap`. t is a scalar of x's dtype,
            at least float32; x is [B, *event_shape] with exactly one batch axis, whatever batch shape the caller used. The
            samples of a batch must not affect each other. A result in lower precision (bfloat16) is cast to x's dtype.
        params: the network's parameters, any pytree of arrays.
        event_shape: shape of one sample, e.g. (32, 32, 3); () for scalars.
        scheduler: the scheduler that the flow was trained with, if known. It sets the scale of the noise (for `EDM`) and gives
            `fit` more start curves to choose from; everything works without it.

    Raises:
        TypeError: if `velocity` is not a function, `scheduler` not a `Scheduler`, or `params` hold a function or text.
        TypeError, ValueError: if `event_shape` is not a tuple of positive integers.

    Examples:
        >>> import jax.numpy as jnp
        >>> flow = Flow(lambda params, t, x: -params * x, jnp.float32(2.0), event_shape=(3,))
        >>> flow(0.5, jnp.ones((4, 3))).shape
        (4, 3)
    """

    velocity: VelocityFunction
    params: Any
    event_shape: tuple[int, ...]
    scheduler: Scheduler | None

    def __init__(
        self,
        velocity: VelocityFunction,
        params: PyTree,
        event_shape: Sequence[int],
        scheduler: Scheduler | None = None,
    ):
        if not callable(velocity):
            raise TypeError(f"velocity: wanted a function of (params, t, x), got {type(velocity).__name__}.")
        if scheduler is not None and not isinstance(scheduler, Scheduler):
            raise TypeError(f"scheduler: wanted a bespoke_jax.schedulers.Scheduler or None, got {scheduler!r}.")
        _check_params(params)
        self.velocity = velocity
        self.params = params
        self.event_shape = check_shape("event_shape", event_shape)
        self.scheduler = scheduler

    def tree_flatten_with_keys(self) -> tuple[tuple, tuple]:
        """For JAX: (the parameters with their key, everything static)."""
        return ((jax.tree_util.GetAttrKey("params"), self.params),), (self.velocity, self.event_shape, self.scheduler)

    @classmethod
    def tree_unflatten(cls, static: tuple, children: tuple) -> "Flow":
        """For JAX: the flow without checks, as `params` may hold anything during transformations."""
        flow = object.__new__(cls)
        (flow.params,) = children
        flow.velocity, flow.event_shape, flow.scheduler = static
        return flow

    def __repr__(self) -> str:
        name = getattr(self.velocity, "__name__", type(self.velocity).__name__)
        return f"Flow({name}, event_shape={self.event_shape}, scheduler={self.scheduler})"

    @property
    def calls_per_evaluation(self) -> int:
        """Network calls of one velocity evaluation: 2 with `guided`, else 1.

        NFE and all costs count velocity evaluations; multiply them by this number for network calls.
        """
        return getattr(self.velocity, "calls_per_evaluation", 1)

    @property
    def time_range(self) -> tuple[float, float]:
        """(first, last) time at which the velocity is evaluated; times outside are replaced by the nearer of the two.

        (0, 1) unless `from_prediction` keeps a margin at an end. A program that runs a solver without this flow must
        clip its times likewise: `save_solver(..., flow=flow)` writes clipped times.
        """
        return getattr(self.velocity, "time_range", (0.0, 1.0))

    @property
    def slope_at_noise(self) -> float:
        """The factor from the slope in x of the prediction to that of the velocity at t = 0.

        1 unless `from_prediction` divides a noise or score prediction by a small alpha_t there.
        """
        return getattr(self.velocity, "slope_at_noise", 1.0)

    @property
    def outside_jax(self) -> bool:
        """Whether the velocity is computed outside JAX, as that of `adapters.torch.flow` is.

        It is then called directly, not from compiled programs. Where a program must contain it, under `jit`, it calls back.
        """
        return getattr(self.velocity, "outside_jax", False)

    def batch_shape(self, x: Float[Array, "..."], name: str = "x") -> tuple[Any, ...]:
        """The leading axes of `x`, after checking that it is a floating array of trailing shape `event_shape`.

        Args:
            x: [*batch, *event_shape].
            name: of the argument, in errors.

        Raises:
            TypeError: if `x` is not a floating array.
            ValueError: if its shape does not end in `event_shape`.
        """
        (shape, dtype), ndim = check_numeric(name, x), len(self.event_shape)
        if shape[len(shape) - ndim :] != self.event_shape or len(shape) < ndim:
            raise ValueError(f"{name}: wanted shape [*batch, {', '.join(map(str, self.event_shape))}], got {shape}.")
        if not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(f"{name}: wanted a floating dtype, got {dtype}.")
        return shape[: len(shape) - ndim]

    def __call__(self, t: Scalar, x: Float[Array, "*shape"]) -> Float[jax.Array, "*shape"]:
        """The velocity u_t(x).

        Args:
            t: the time, a scalar.
            x: [*batch, *event_shape].

        Returns:
            An array of x's shape and dtype.

        Raises:
            ValueError: if x does not end in the event shape, t is no scalar, or the velocity returns another shape.
            TypeError: if x or t are of the wrong kind, or the velocity returns something other than one floating array no wider
                than x.
        """
        batch = self.batch_shape(x)
        shape, dtype = check_numeric("t", t)
        if shape:
            raise ValueError(f"t: wanted a scalar, got shape {shape}; use jax.vmap for several times.")
        if jnp.issubdtype(dtype, jnp.complexfloating):
            raise TypeError(f"t: wanted a real number, got {dtype}.")
        flat = jnp.reshape(x, (-1, *self.event_shape))
        # A time wider than the state would widen the network's result; one narrower than float32 is too coarse.
        t = jnp.asarray(t, promote(flat.dtype, jnp.float32))
        return jnp.reshape(call("velocity", self.velocity, self.params, t, flat), (*batch, *self.event_shape))

    def noise(
        self, key: KeyArray, batch_shape: Sequence[int] = (), dtype: DTypeLike = jnp.float32
    ) -> Float[jax.Array, "..."]:
        """Draw x0 from N(0, sigma_0^2); sigma_0 = 1 without a scheduler.

        Args:
            key: a random key.
            batch_shape: the shape of the batch.
            dtype: of the noise.

        Returns:
            An array [*batch_shape, *event_shape].

        Raises:
            TypeError: if `key` is not one key, or `dtype` not floating.
            TypeError, ValueError: if `batch_shape` is not a tuple of positive integers.
        """
        check_key(key)
        check_float_dtype("dtype", dtype)
        batch_shape = check_shape("batch_shape", batch_shape)
        x0 = jax.random.normal(key, (*batch_shape, *self.event_shape), dtype)
        if self.scheduler is None:
            return x0
        return x0 * jnp.asarray(self.scheduler.sigma(jnp.zeros((), jnp.float32)), dtype)

    @classmethod
    def from_prediction(
        cls,
        network: VelocityFunction,
        params: PyTree,
        event_shape: Sequence[int],
        scheduler: Scheduler,
        prediction: str = "noise",
        time_margin: float | None = None,
    ) -> "Flow":
        """A flow from a network that predicts noise, data, score, v or velocity (Sec. 2.2; Salimans & Ho 2022 for "v").

        Args:
            network: `network(params, t, x) -> prediction`, of x's shape; t in [0, 1], 0 at noise.
            params, event_shape: as for `Flow`.
            scheduler: the scheduler it was trained with; required.
            prediction: "noise" (E[x0|x]), "data" (E[x1|x]), "score" (grad log p_t), "v" (alpha x0 - sigma x1) or "velocity".
            time_margin: times are clipped to [margin, 1 - margin], because noise and score predictions are divided by alpha_t,
                and noise, data and v predictions by sigma_t. None for 1e-3 at an end where the divisor vanishes, else 0, as at
                both ends under EDM. Ignored for "velocity".

        Raises:
            TypeError: if `scheduler` is not a `Scheduler`, `network` not a function, or `params` hold a function or text;
                when called, if the prediction is not a floating array.
            ValueError: for another prediction or margin; when called, if the prediction is not of x's shape.

        Examples:
            >>> import jax.numpy as jnp
            >>> from bespoke_jax import schedulers
            >>> flow = Flow.from_prediction(lambda p, t, x: 0.0 * x, None, (2,), schedulers.CondOT(), prediction="data")
            >>> [float(v) for v in flow(0.5, jnp.ones(2))]  # towards the data mean, 0: u = -x / sigma
            [-2.0, -2.0]
        """
        velocity = velocity_of_prediction(network, scheduler, prediction, time_margin)
        return cls(velocity, params, event_shape, scheduler)


def _check_params(params: PyTree) -> None:
    """Raise TypeError, naming the leaf, if the parameters hold a function or a text."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if callable(leaf) or isinstance(leaf, str | bytes):
            what = f"the function {getattr(leaf, '__name__', leaf)!r}" if callable(leaf) else repr(leaf)
            raise TypeError(
                f"params: wanted a tree of arrays, got {what} at params{jax.tree_util.keystr(path)}. Split an Equinox module: "
                "arrays, static = eqx.partition(module, eqx.is_array); give the arrays, and call eqx.combine(params, static) in "
                "the velocity."
            )
