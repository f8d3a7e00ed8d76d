"""The learned table: all entries of a `SolverTable`, as corrections to a reference (Shaul et al. 2024, arXiv:2403.01329)."""

import dataclasses
from functools import partial
from typing import Any, Self, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from bespoke_jax.checks import check_array, check_type, known
from bespoke_jax.classic.dedicated import dedicated
from bespoke_jax.classic.first_call import affine_velocity, known_first_call
from bespoke_jax.classic.runge_kutta import euler
from bespoke_jax.corrections import Corrections
from bespoke_jax.flow.classes import class_weights, num_classes
from bespoke_jax.flow.flow import Flow
from bespoke_jax.flow.guided import is_guided
from bespoke_jax.flow.sharding import gather
from bespoke_jax.learned.blocks import in_blocks
from bespoke_jax.learned.starts import made
from bespoke_jax.run.adjoint import end_points
from bespoke_jax.solver import LearnedSolver
from bespoke_jax.table import SolverTable
from bespoke_jax.types import Array

__all__ = ["LearnedTable", "numbers_of", "zeros"]

T = TypeVar("T", bound="LearnedTable")

_LARGEST_IMAGE = 2**22  # numbers of all images together: 8 MiB in half precision
_PRIOR = 2.0  # samples of all classes that count as samples of each


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LearnedTable(LearnedSolver):
    """A table of m evaluations with learned times and factors; with all corrections 0 it is exactly the reference.

    The times are independent of the factors (the "model time" is decoupled) and of each other. Each moves by an angle of its own,
    t_j = sin^2(arcsin(sqrt(t_ref_j)) + raw_j): it stays in [0, 1] for any value and turns back at 0 and 1, where a logit would
    be stuck for good. All factors are those of the reference + raw. No step is divided by a difference of times, so times may
    coincide.

    A plain reference stays plain: its first evaluation is that of the noise at the first time. `fit` learns the general table
    (see `suited`) where a flow's scheduler is known.

    Attributes:
        raw: corrections: m - 1 of times (m, if `reference.first` is there), m of a, m (m + 1) / 2 of b by rows, then 1 of first
            and m + 1 of c, if the reference has them; then all but the times again for each feature of its `corrections`.
        reference: the table it starts as; carried, not learned.

    Examples:
        >>> import bespoke_jax as bj
        >>> table = LearnedTable.of(bj.classic.midpoint(8))
        >>> table.num_parameters, table.nfe
        (51, 8)
    """

    raw: jax.Array
    reference: SolverTable

    @classmethod
    def of(cls: type[T], reference: SolverTable) -> T:
        """The learned table that begins as `reference`.

        Raises:
            TypeError: if it is not a table; `to_table` gives the table of another solver.
            ValueError: if its arrays disagree, as `SolverTable.check`; for a table over the calls of a guided flow, which is for
                `LearnedCalls`, and for any other there.
        """
        check_type("reference", reference, SolverTable, "a SolverTable (bespoke_jax.to_table makes one)")
        reference.check("reference")
        cls._check_fields("reference", reference)
        return cls(zeros(reference.num_parameters, reference.t.dtype), reference)

    @classmethod
    def _check_fields(cls, name: str, reference: SolverTable) -> None:
        if (reference.fields is not None) != cls.by_calls:
            wanted, got = (
                ("one over calls (by_call makes it)", "evaluations") if cls.by_calls else ("a plain one", "calls")
            )
            raise ValueError(f"{name}: wanted {wanted}, got one over {got}; see LearnedTable and LearnedCalls.")

    def check(self, name: str) -> None:
        """Raise TypeError or ValueError unless the reference is a table and `raw` has a correction for each of its entries."""
        check_type(f"{name}.reference", self.reference, SolverTable, "a SolverTable").check(f"{name}.reference")
        check_array(f"{name}.raw", self.raw, (self.reference.num_parameters,))
        self._check_fields(f"{name}.reference", self.reference)

    @property
    def family(self) -> str:
        """ "table": the name of the family."""
        return "table"

    @property
    def num_steps(self) -> int:
        """As `nfe`: a step is an evaluation."""
        return self.nfe

    @property
    def nfe(self) -> int:
        """Velocity evaluations per sample, m."""
        return self.reference.nfe

    def table(self) -> SolverTable:
        """The reference with the corrections."""
        t = self.reference.t
        by_time, raw = self.raw[: self._num_times], self.raw[self._num_times :]
        fixed = len(t) - len(by_time)
        factors = jax.tree.map(jnp.add, self.reference.factors, self._entries(jnp.zeros_like(t), raw))
        moved = jnp.concatenate([t[:fixed], _moved(t[fixed:], by_time)])
        return dataclasses.replace(factors, t=moved, xi=self.reference.xi)

    def table_and_jacobian(self) -> tuple[SolverTable, SolverTable]:
        """As that of every solver; written out, for each number but those of times is added to one entry."""
        t, raw = (np.asarray(values, np.float64) for values in jax.device_get((self.reference.t, self.raw)))
        fixed = len(t) - self._num_times
        by_time, each = np.split(np.eye(len(raw)), [self._num_times], axis=1)
        slopes = np.sin(2 * np.arcsin(np.sqrt(t[fixed:])) + 2 * raw[: self._num_times])  # of `_moved`
        found = self._entries(np.pad(by_time * slopes, ((0, 0), (fixed, 0))), each)
        return jax.device_get(self.unrolled()), jax.tree.map(lambda entries: np.moveaxis(entries, 0, -1), found)

    @property
    def _num_times(self) -> int:
        """How many of the times are learned, the last ones."""
        return self.nfe - (self.reference.first is None)

    def _entries(self, t, numbers) -> SolverTable:
        """Times and numbers [..., P - _num_times] as the factors of a table, each [..., *shape], in NumPy or JAX."""
        reference, corrections = self.reference, self.reference.corrections
        uses = reference.uses
        places = np.cumsum(uses).reshape(uses.shape) - 1  # of the used entries of b among them
        sizes = (self.nfe, np.sum(uses), reference.first is not None, 0 if reference.c is None else self.nfe + 1)
        a, b, first, c = (slice(end - size, end) for size, end in zip(sizes, np.cumsum(sizes), strict=True))

        def factors(numbers):
            return dict(
                a=numbers[..., a],
                b=numbers[..., b][..., places] * uses.astype(numbers.dtype),
                first=None if reference.first is None else numbers[..., first][..., 0],
                c=None if reference.c is None else numbers[..., c],
            )

        if corrections is not None:
            of_features = numbers[..., sum(sizes) :].reshape(*numbers.shape[:-1], -1, sum(sizes))
            corrections = dataclasses.replace(corrections, **factors(of_features))
        return dataclasses.replace(
            reference, t=t, xi=None, corrections=corrections, **factors(numbers[..., : sum(sizes)])
        )

    @property
    def latency(self) -> int:
        """As that of the table."""
        return self.reference.latency

    def network_calls(self, flow: Flow) -> int:
        """As those of the table."""
        return self.reference.network_calls(flow)

    def check_flow(self, flow: Flow) -> None:
        """As that of the table."""
        self.reference.check_flow(flow)

    def suited(self, flow: Flow) -> Self:
        """The general table that begins as this one: its first time, first state and the factors of an image are learned too.

        The image is 0 until `with_samples`: one for each class if the flow is `given` classes. A flow without a scheduler, with a
        source of its own, or with events too large for an image in a solver file, keeps the plain table.
        """
        image = _image_shape(flow)
        if flow.gaussian_scheduler is None or image is None or self.reference.c is not None:
            return self
        return self._general(zeros(image, self.reference.t.dtype))

    def _general(self, xi: jax.Array) -> Self:
        """The general table with this image that begins as this plain one."""
        raw, dtype = known(self.raw), self.reference.t.dtype
        table = self.unrolled() if raw is None or np.any(raw) else self.reference
        first = jax.device_put(np.ones((), dtype)) if table.first is None else table.first
        general = dataclasses.replace(table, first=first, c=zeros(self.nfe + 1, dtype), xi=xi)
        if table.corrections is not None:
            general = dataclasses.replace(general, corrections=table.corrections.like(general))
        return self.of(general)

    def with_samples(
        self, flow: Flow, x0: Float[Array, "B *event"], x1: Float[Array, "B *event"], batch_size: int
    ) -> tuple[Self, int]:
        """The table whose image is the mean of the data, of each class if there are several.

        A table without an image, or with one already, stays as it is.

        The data's mean is that of the true ends. A guided flow has no data: its image is the one that its velocities at the noise
        end are affine in, (1 + w) times the conditional mean less w times the unconditional, read off one evaluation a sample.
        """
        if self.reference.xi is None or np.any(np.asarray(gather(flow, self.reference.xi))):
            return self, 0
        images, spent = (_images_at_noise(flow, x0, batch_size), len(x0)) if is_guided(flow) else (x1, 0)
        count = jnp.shape(self.reference.xi)[0] if self.reference.xi.ndim > len(flow.event_shape) else None
        weights = None if count is None else class_weights(flow, count)
        xi = _rounded(np.asarray(gather(flow, _means(images, weights)), np.float64)).astype(self.reference.t.dtype)
        return dataclasses.replace(self, reference=dataclasses.replace(self.reference, xi=jax.device_put(xi))), spent

    def most_per_sample(self, flow: Flow) -> int:
        """One for an image of a guided flow."""
        return int(self.reference.xi is not None and is_guided(flow))

    def starts(self, flow: Flow) -> dict[str, Self]:
        """Every dedicated solver with as many evaluations, on every grid; with one for each block, if there are blocks."""
        tables = dedicated(self.dedicated_nfe, flow.scheduler, self.raw.dtype)
        return {name: self._like(self.expanded(flow, table)) for name, table in tables.items()}

    def rivals(self, flow: Flow) -> dict[str, Self]:
        """Every dedicated solver with one evaluation more, whose first call is known; none for a plain table.

        Nor for a flow with a source of its own, whose x0 may say something of the data.
        """
        xi, scheduler = self.reference.xi, flow.gaussian_scheduler
        if scheduler is None or xi is None:
            return {}
        tables = dedicated(self.dedicated_nfe + 1, scheduler, self.raw.dtype)
        known = {f"known_first/{name}": partial(known_first_call, t, scheduler, xi) for name, t in tables.items()}
        return {name: self.of(self._corrected(self.expanded(flow, table))) for name, table in made(known).items()}

    @property
    def dedicated_nfe(self) -> int:
        """Evaluations of a dedicated solver to begin from."""
        return self.reference.latency

    def expanded(self, flow: Flow, table: SolverTable) -> SolverTable:
        """A table of `dedicated_nfe` evaluations as one of the same evaluations as this."""
        return in_blocks(table, self.reference.block)

    def _like(self, table: SolverTable) -> Self:
        """The learned table that begins as a plain one, in this one's form, with its image."""
        other = self.of(self._corrected(table))
        return other if self.reference.xi is None else other._general(self.reference.xi)

    def _corrected(self, table: SolverTable) -> SolverTable:
        """A table with corrections of this one's kind, all 0, if this one has some and the table none."""
        own = self.reference.corrections
        if own is None or table.corrections is not None:
            return table
        return dataclasses.replace(table, corrections=Corrections.zeros(table, own.num_features, own.of, own.span))


def numbers_of(table: SolverTable) -> np.ndarray:
    """The factors of a table without corrections, in the order of the numbers that `LearnedTable.table` adds to them."""
    parts = table.a, np.asarray(table.b)[np.nonzero(table.uses)], table.first, table.c
    return np.concatenate([np.reshape(np.asarray(part, np.float64), -1) for part in parts if part is not None])


def zeros(shape: Any, dtype: Any) -> jax.Array:
    """Zeros from the host: JAX would compile a program for each shape."""
    return jax.device_put(np.zeros(shape, dtype))


def _moved(t: jax.Array, angles: jax.Array) -> jax.Array:
    """The times moved by their angles: with phi the angle of t, sin^2(phi + x) = t + sin(x) sin(2 phi + x), exactly t at 0."""
    tiny = jnp.finfo(t.dtype).tiny  # a root has no derivative at 0
    sine, cosine = 2 * jnp.sqrt(jnp.maximum(t * (1 - t), tiny)), 1 - 2 * t  # of 2 phi
    moved = t + jnp.sin(angles) * (sine * jnp.cos(angles) + cosine * jnp.sin(angles))
    return jnp.clip(moved, 0, 1)


def _image_shape(flow: Flow) -> tuple[int, ...] | None:
    """The shape of the images of a flow's samples, one for each class if there are not too many; None if one is too large."""
    size, classes = int(np.prod(flow.event_shape)), num_classes(flow)
    if classes is not None and classes * size <= _LARGEST_IMAGE:
        return (classes, *flow.event_shape)
    return flow.event_shape if size <= _LARGEST_IMAGE else None


def _images_at_noise(flow: Flow, x0: Array, batch_size: int) -> jax.Array:
    """The images that the velocities at t = 0 would be affine in, one for each sample: `affine_velocity`, solved for E[x1]."""
    assert flow.scheduler is not None
    of_noise, of_image = affine_velocity(flow.scheduler)
    moved = end_points(flow, euler(1), x0, batch_size)  # x0 + u_0(x0)
    return (moved - (1 + of_noise) * x0) / of_image


@jax.jit
def _means(x1: Any, weights: Any) -> jax.Array:
    """The mean of samples [B, *event]; with their weights [B, K], that of each class, drawn to the mean of all."""
    x1 = x1.astype(jnp.promote_types(x1.dtype, jnp.float32))
    mean = jnp.mean(x1, axis=0)
    if weights is None:
        return mean
    total = jnp.sum(weights, axis=0).reshape(-1, *(1,) * mean.ndim)
    return (jnp.tensordot(weights.T, x1, axes=1) + _PRIOR * mean) / (total + _PRIOR)


def _rounded(image: np.ndarray) -> np.ndarray:
    """An image in half precision where that is accurate: any image serves, and this one is small in a file."""
    size = np.sqrt(np.mean(image**2))
    return image.astype(np.float16 if 1e-2 < size and np.max(np.abs(image)) < 1e4 else np.float32)
