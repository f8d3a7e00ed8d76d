"""The flow: a velocity field u_t(x) with its network parameters, as one pytree."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from bespoke_jax.checks import check_float_dtype, check_key, check_numeric, check_shape
from bespoke_jax.dtypes import promote
from bespoke_jax.flow.call import call, check_params
from bespoke_jax.flow.norm import check_weights
from bespoke_jax.flow.prediction import velocity_of_prediction
from bespoke_jax.flow.source import check_source, draw, gaussian, same_params
from bespoke_jax.flow.states import States
from bespoke_jax.flow.times import check_direction, scheduler_of
from bespoke_jax.flow.trees import event_of, of_arrays
from bespoke_jax.schedulers import Scheduler
from bespoke_jax.types import (
    DTypeLike,
    EventShape,
    KeyArray,
    Numbers,
    PyTree,
    Scalar,
    SourceFunction,
    State,
    VelocityFunction,
    Weights,
)

__all__ = ["Flow"]


@jax.tree_util.register_pytree_with_keys_class
class Flow(States):
    """A pre-trained flow: `x'(t) = u_t(x)` carries noise x0 (t = 0) to data x1 (t = 1).

    A flow is a pytree whose leaves are the network's parameters; everything else is static. Like any tree of arrays, it can be
    passed through `jit`, `vmap` and `pmap`, sharded and donated.

    Args:
        velocity: `velocity(params, t, x) -> array of x's shape`, traceable by JAX, also under `vmap`. t is a scalar of x's dtype,
            at least float32; x is [B, *event_shape] with exactly one batch axis, whatever batch shape the caller used. The
            samples of a batch must not affect each other. A result in lower precision (bfloat16) is cast to x's dtype.
        params: the network's parameters, any pytree of arrays.
        event_shape: shape of one sample, e.g. (32, 32, 3); () for scalars. Or a tree of shapes, for samples that are trees of
            arrays: {"positions": (9, 3), "features": (9, 5)}. The velocity then gets and returns such a tree of [B, *leaf], and
            so do `solve`, `sample` and a source; `flow.event_shape` is (D,), that of all numbers as one array, see `ravel`.
        scheduler: the scheduler that the flow was trained with, if known. It sets the scale of the noise (for `EDM`) and gives
            `fit` more start curves to choose from; everything works without it.
        source: `source(params, key) -> x0` of one sample, [*event_shape], traceable by JAX, also under `vmap`: where the flow was
            trained to start from, if that is not Gaussian noise. Under `given` its `params["condition"]` is the sample's own.
            None for N(0, sigma_0^2), with sigma_0 = 1 without a scheduler.
        weights: of a sample's numbers in its norm, >= 0: numbers that broadcast to event_shape, or a tree of them; or a function
            `weights(params)` of one sample, which under `given` sees its own condition, such as a padding mask. Errors, losses
            and the tolerances of true paths are then sum_j w_j e_j^2 / sum_j w_j; numbers of weight 0 have no part in them.

    Raises:
        TypeError: if `velocity` is not a function, `scheduler` not a `Scheduler`, `source` not a function, or `params` hold a
            function or text.
        ValueError: if the scheduler does not lead from noise to data.
        TypeError, ValueError: if `event_shape` is not a tuple of positive integers, or a tree of them; for bad weights.

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
    source: SourceFunction | None

    def __init__(
        self,
        velocity: VelocityFunction,
        params: PyTree,
        event_shape: EventShape,
        scheduler: Scheduler | None = None,
        *,
        source: SourceFunction | None = None,
        weights: Weights | None = None,
    ):
        if not callable(velocity):
            raise TypeError(f"velocity: wanted a function of (params, t, x), got {type(velocity).__name__}.")
        if scheduler is not None and not isinstance(scheduler, Scheduler):
            raise TypeError(f"scheduler: wanted a bespoke_jax.schedulers.Scheduler or None, got {scheduler!r}.")
        if scheduler is not None:
            check_direction(scheduler)
        check_source(source)
        check_params(params)
        event = event_of(event_shape)
        self.event_shape = check_shape("event_shape", event_shape) if event is None else (event.size,)
        self.velocity = of_arrays("velocity", velocity, event, self.event_shape)
        self.params = params
        self.scheduler = scheduler
        self.source = source
        self.weights = check_weights(weights, self.event, self.event_shape)

    def tree_flatten_with_keys(self) -> tuple[tuple, tuple]:
        """For JAX: (the parameters with their key, everything static)."""
        static = self.velocity, self.event_shape, self.scheduler, self.source, self.weights
        return ((jax.tree_util.GetAttrKey("params"), self.params),), static

    @classmethod
    def tree_unflatten(cls, static: tuple, children: tuple) -> "Flow":
        """For JAX: the flow without checks, as `params` may hold anything during transformations."""
        flow = object.__new__(cls)
        (flow.params,) = children
        flow.velocity, flow.event_shape, flow.scheduler, flow.source, flow.weights = static
        return flow

    def __repr__(self) -> str:
        source = "" if self.source is None else f", source={_name_of(self.source)}"
        return f"Flow({_name_of(self.velocity)}, event_shape={self._shapes}, scheduler={self.scheduler}{source})"

    def replace(self, **changes: Any) -> "Flow":
        """The flow with other `velocity`, `params`, `event_shape`, `scheduler`, `source` or `weights`, and the rest as it is.

        Examples:
            >>> flow = Flow(lambda params, t, x: -params * x, 2.0, event_shape=(3,))
            >>> flow.replace(params=1.0)(0.5, jnp.ones(3)).tolist()
            [-1.0, -1.0, -1.0]
        """
        names = ("velocity", "params", "scheduler", "source", "weights")
        return Flow(**({name: getattr(self, name) for name in names} | {"event_shape": self._shapes} | changes))

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
    def gaussian_scheduler(self) -> Scheduler | None:
        """The scheduler, if it is known and x0 is its Gaussian noise, independent of the data; else None.

        Formulas for the velocity at the noise hold under it alone: the slope in x, a first call that is known beforehand.
        """
        return self.scheduler if self.source is None else None

    @property
    def outside_jax(self) -> bool:
        """Whether the velocity is computed outside JAX, as that of `adapters.torch.flow` is.

        It is then called directly, not from compiled programs. Where a program must contain it, under `jit`, it calls back.
        """
        return getattr(self.velocity, "outside_jax", False)

    def __call__(self, t: Scalar, x: State) -> State:
        """The velocity u_t(x).

        Args:
            t: the time, a scalar.
            x: [*batch, *event_shape]; or a tree of arrays [*batch, *leaf].

        Returns:
            An array of x's shape and dtype, or such a tree.

        Raises:
            ValueError: if x does not end in the event shape, t is no scalar, or the velocity returns another shape.
            TypeError: if x or t are of the wrong kind, or the velocity returns something other than one floating array no wider
                than x.
        """
        x, as_given = self.as_array("x", x)
        batch = self.batch_shape(x)
        shape, dtype = check_numeric("t", t)
        if shape:
            raise ValueError(f"t: wanted a scalar, got shape {shape}; use jax.vmap for several times.")
        if jnp.issubdtype(dtype, jnp.complexfloating):
            raise TypeError(f"t: wanted a real number, got {dtype}.")
        flat = jnp.reshape(x, (-1, *self.event_shape))
        # A time wider than the state would widen the network's result; one narrower than float32 is too coarse.
        t = jnp.asarray(t, promote(flat.dtype, jnp.float32))
        u = call("velocity", self.velocity, self.params, t, flat)
        return as_given(jnp.reshape(u, (*batch, *self.event_shape)))

    def noise(self, key: KeyArray, batch_shape: Sequence[int] = (), dtype: DTypeLike = jnp.float32) -> State:
        """Draw x0: from the flow's `source`, or else from N(0, sigma_0^2), with sigma_0 = 1 without a scheduler.

        Args:
            key: a random key. A source draws a batch from `jax.random.split(key, batch)`, one key for each sample, and a single
                sample, without batch axes, from `key` itself.
            batch_shape: the shape of the batch; with a source, as many samples as a `given` flow has conditions.
            dtype: of the noise.

        Returns:
            An array [*batch_shape, *event_shape], or a tree of [*batch_shape, *leaf].

        Raises:
            TypeError: if `key` is not one key, or `dtype` not floating.
            TypeError, ValueError: if `batch_shape` is not a tuple of positive integers; if the source returns something other
                than one floating array of shape `event_shape`; before anything is compiled.

        Examples:
            >>> cells = jnp.array([[1.0, 2.0], [3.0, 4.0]])
            >>> flow = Flow(lambda p, t, x: -x, cells, (2,), source=lambda p, key: jax.random.choice(key, p))
            >>> flow.noise(jax.random.key(0), (64,)).mean(axis=0).round().tolist()
            [2.0, 3.0]
        """
        check_key(key)
        check_float_dtype("dtype", dtype)
        batch_shape = check_shape("batch_shape", batch_shape)
        if self.source is not None:
            params_of = getattr(self.velocity, "params_of_samples", lambda params, count: same_params)
            of_sample = params_of(self.params, math.prod(batch_shape))
            x0 = draw(self.source, of_sample, self.params, key, batch_shape, self.event_shape, dtype, self.event)
            return self.unravel(x0)
        return self.unravel(gaussian(key, (*batch_shape, *self.event_shape), dtype, self.scheduler))

    @classmethod
    def from_prediction(
        cls,
        network: VelocityFunction,
        params: PyTree,
        event_shape: EventShape,
        scheduler: Scheduler | Any,
        prediction: str = "noise",
        time_margin: float | None = None,
        *,
        time: str | Numbers = "noise_at_0",
        per_sample_time: bool | None = None,
        source: SourceFunction | None = None,
        weights: Weights | None = None,
    ) -> "Flow":
        """A flow from a network that predicts noise, data, score, v or velocity (Sec. 2.2; Salimans & Ho 2022 for "v").

        Args:
            network: `network(params, its time, x) -> prediction`, of x's shape.
            params, event_shape, source, weights: as for `Flow`.
            scheduler: the scheduler it was trained with, in this library's time; or another library's schedule, any object with
                functions `alpha(s)` and `sigma(s)` of its own time in [0, 1]. Required.
            prediction: "noise" (E[x0|x]), "data" (E[x1|x]), "score" (grad log p_t), "v" (alpha x0 - sigma x1) or "velocity".
            time_margin: times are clipped to [margin, 1 - margin], because noise and score predictions are divided by alpha_t,
                and noise, data and v predictions by sigma_t. None for 1e-3 at an end where the divisor vanishes, else 0, as at
                both ends under EDM. Ignored for "velocity".
            time: the time that the network is called with.

                - "noise_at_0": t, this library's.
                - "noise_at_1": s = 1 - t.
                - "sigma": sigma_t, the standard deviation of the noise in x, as in EDM.
                - "noise_to_signal": sigma_t / alpha_t, the same where alpha = 1, as in EDM.
                - "steps_of_1000": the step of a DDPM, 999 at noise: that with the level sigma_t / alpha_t, if the steps add noise
                  at the rate of the scheduler (`VariancePreserving(1000 * beta_first, 1000 * beta_last)` for linear betas). For a
                  velocity, 1000 (1 - t), as in flow matching.
                - betas [N]: the step of a DDPM whose steps add these variances, whatever the scheduler's rate.

                A velocity is taken as dx by the network's own time: dx/ds, s = 1 - t, also for steps; dx/dsigma for "sigma",
                and likewise for "noise_to_signal".
            per_sample_time: whether the network takes its time as [B], instead of a scalar; None to find out by trying.

        Raises:
            TypeError: if `scheduler` is not a `Scheduler` or the like, `network` not a function, or `params` hold a function or
                text; when called, if the prediction is not a floating array.
            ValueError: for another prediction, margin or time, and for steps under a scheduler that is not variance-preserving;
                when called, if the prediction is not of x's shape.

        Examples:
            >>> import jax.numpy as jnp
            >>> from bespoke_jax import schedulers
            >>> flow = Flow.from_prediction(lambda p, t, x: 0.0 * x, None, (2,), schedulers.CondOT(), prediction="data")
            >>> [float(v) for v in flow(0.5, jnp.ones(2))]  # towards the data mean, 0: u = -x / sigma
            [-2.0, -2.0]
            >>> args = lambda p, s, x: s * x, None, (2,), schedulers.CondOT(), "velocity"
            >>> [float(v) for v in Flow.from_prediction(*args, time="noise_at_1")(0.75, jnp.ones(2))]  # dx/dt = -dx/ds
            [-0.25, -0.25]
        """
        scheduler = scheduler_of(scheduler)
        network = of_arrays("network", network, event_of(event_shape))
        velocity = velocity_of_prediction(network, scheduler, prediction, time_margin, time, per_sample_time)
        return cls(velocity, params, event_shape, scheduler, source=source, weights=weights)


def _name_of(function: Any) -> str:
    return getattr(function, "__name__", type(function).__name__)
