"""What a table adds to its factors for each sample: for its class, or for the guidance scale (derived; docs/theory.md).

The times stay those of all samples, so that a batch of mixed classes takes one call of the network an evaluation.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bespoke_jax.checks import check_array, check_choice, known
from bespoke_jax.flow.classes import class_weights
from bespoke_jax.flow.flow import Flow
from bespoke_jax.flow.guided import scales_of
from bespoke_jax.warn import warn

__all__ = ["OF", "Corrections"]

OF = ("class", "scale")
"""What corrections may depend on."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Corrections:
    """Corrections of a table's factors, linear in R features of a sample.

    - of "class": the features are the weights of R classes, where the flow's condition is the index of a class or a vector [R].
      A sample without a class has the factors of the table alone.
    - of "scale": they are z and z^2, with z the guidance scale within `span`, from -1 to 1. So the factors are quadratic in w.

    Attributes:
        a: [R, m] corrections of the factors of the noise.
        b: [R, m, m] of those of the velocities.
        first: [R] of the factor of the noise in the first state; None where the table has none.
        c: [R, m + 1] of the factors of the image; None where the table has none.
        of: "class" or "scale"; static.
        span: (least, greatest) guidance scale for "scale"; static.

    Examples:
        >>> import bespoke_jax as bj
        >>> table = bj.corrected(bj.classic.euler(2), num_classes=3)
        >>> table.corrections.b.shape, table.num_parameters
        ((3, 2, 2), 21)
    """

    a: jax.Array
    b: jax.Array
    first: jax.Array | None = None
    c: jax.Array | None = None
    of: str = dataclasses.field(default="class", metadata=dict(static=True))
    span: tuple[float, float] | None = dataclasses.field(default=None, metadata=dict(static=True))

    @classmethod
    def zeros(cls, table: Any, num_features: int, of: str, span: tuple[float, float] | None = None) -> "Corrections":
        """No corrections of a table, so far."""
        added = (
            None if value is None else jnp.zeros((num_features, *value.shape), value.dtype) for value in _factors(table)
        )
        return cls(*added, of=of, span=span)  # pyright: ignore[reportArgumentType]  # every table has a and b

    @property
    def num_features(self) -> int:
        """R."""
        return self.a.shape[0]

    def like(self, table: Any) -> "Corrections":
        """These, and 0 for what else `table` has."""
        zeros = self.zeros(table, self.num_features, self.of, self.span)
        return jax.tree.map(
            lambda own, zero: zero if own is None else own, self, zeros, is_leaf=lambda leaf: leaf is None
        )

    def check(self, name: str, table: Any) -> None:
        """Raise TypeError or ValueError unless the arrays belong to this table."""
        check_choice(f"{name}.of", self.of, OF)
        if (self.span is None) != (self.of == "class") or (self.span is not None and not self.span[0] < self.span[1]):
            raise ValueError(f"{name}.span: wanted (least, greatest) scale for 'scale' alone, got {self.span}.")
        if table.block > 1:
            raise ValueError(f"{name}: wanted none for a table in blocks, got some.")
        num_features = 2 if self.of == "scale" else jnp.shape(self.a)[0]
        for field, own, value in zip(_NAMES, _factors(self), _factors(table), strict=True):
            if (own is None) != (value is None):
                raise ValueError(f"{name}.{field}: wanted it where the table has {field}, and only there.")
            if own is not None:
                check_array(f"{name}.{field}", own, (num_features, *jnp.shape(value)))

    def saved(self) -> dict[str, Any]:
        """The entries of a solver file."""
        named = zip(_NAMES, _factors(self), strict=True)
        numbers = {name: np.asarray(value, np.float64).tolist() for name, value in named if value is not None}
        return dict(of=self.of) | ({} if self.span is None else dict(span=list(self.span))) | numbers

    def features(self, flow: Flow) -> jax.Array:
        """[R] for all samples of the flow, or [B, R].

        Raises:
            ValueError: if the flow's condition is no class, or the flow not guided.
        """
        if self.of == "class":
            weights = class_weights(flow, self.num_features)
            if weights is None:
                raise ValueError(
                    f"solver.corrections: wanted a flow whose condition is the index of one of {self.num_features} classes, or a "
                    f"vector of as many weights, got {flow!r}."
                )
            return weights
        assert self.span is not None
        low, high = self.span
        z = jnp.clip((2 * scales_of(flow) - (low + high)) / (high - low), -1, 1)
        return jnp.stack([z, z**2], axis=-1)

    def check_flow(self, flow: Flow) -> None:
        """Warn of guidance scales that the table was not learned for; raise as `features` does."""
        self.features(flow)
        scales = None if self.span is None else known(scales_of(flow))
        if scales is None or self.span is None:
            return
        low, high = self.span
        if np.any((scales < low) | (scales > high)):
            warn(
                f"solver: learned for guidance scales from {low:g} to {high:g}, got some from {np.min(scales):g} to "
                f"{np.max(scales):g}; those outside run with the factors of the nearer end."
            )

    def of_samples(self, table: Any, flow: Flow) -> Any:
        """The table of the flow's samples, without corrections: its factors have one more axis [B] where features have."""
        own = _corrected(_factors(table), _factors(self), self.features(flow))
        held = table.scale
        if self.span is not None and table.fields is not None:  # single calls, of factors that hold the scale
            scale = known(scales_of(flow))
            held = None if scale is None or np.ndim(scale) else float(np.clip(scale, *self.span))
        return dataclasses.replace(table, **dict(zip(_NAMES, own, strict=True)), corrections=None, scale=held)

    def of_gradients(self, gradients: Any, flow: Flow) -> "Corrections":
        """Gradients in the corrections, [K, B, R, ...], of gradients in a table's factors, [K, B, ...], in NumPy."""
        features = np.asarray(self.features(flow))
        shape = (-1, features.shape[-1])  # [B or 1, R]
        features = features.reshape(shape)

        def times(gradient):
            if gradient is None:
                return None
            rest = gradient.ndim - 2
            return gradient[:, :, None] * features.reshape(*features.shape, *(1,) * rest)

        found = {name: times(value) for name, value in zip(_NAMES, _factors(gradients), strict=True)}
        return dataclasses.replace(self, **found)


_NAMES = ("a", "b", "first", "c")


def _factors(table: Any) -> list[Any]:
    """What is corrected, of a table or of its corrections."""
    return [getattr(table, name) for name in _NAMES]


@jax.jit
def _corrected(factors, corrections, features):
    """factors + features . corrections, with the features' batch axis last."""

    def corrected(factor, correction):
        if factor is None:
            return None
        added = jnp.tensordot(correction, features.astype(correction.dtype), axes=(0, features.ndim - 1))
        return factor.reshape(factor.shape + (1,) * (added.ndim - factor.ndim)) + added

    return [corrected(*pair) for pair in zip(factors, corrections, strict=True)]
