"""Guidance by the call: a learned table over the single calls of a guided flow's two networks."""

import dataclasses
from collections.abc import Collection
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from bespoke_jax.checks import check_count, check_flag, check_key, check_numbers, check_type
from bespoke_jax.classic import euler
from bespoke_jax.corrections import Corrections
from bespoke_jax.flow.conditions import dealt, of_samples
from bespoke_jax.flow.flow import Flow
from bespoke_jax.flow.guided import scale_of, scales_of
from bespoke_jax.learned.placed import NUM_TIMES, table_on_paths
from bespoke_jax.learned.table import LearnedTable, numbers_of, zeros
from bespoke_jax.table import SolverTable
from bespoke_jax.types import DTypeLike, KeyArray, Numbers, Scalar

__all__ = ["LearnedCalls", "by_call", "noises_and_image"]

_NUM_IMAGES, _NUM_PATHS = 128, 32  # noises for the image, and those of them whose paths are followed


def by_call(table: SolverTable, guidance_scale: Scalar | Numbers, without: Collection[int] = ()) -> SolverTable:
    """The table over network calls of one over evaluations of a guided flow, u = (1 + w) u(x | y) - w u(x | nothing).

    An evaluation is a call of the conditional network and, unless it is left out, one of the unconditional at the same state.
    Where it is left out, the last difference of the two stands in: u_j ~ u_j(x | y) + w (u_k(x | y) - u_k(x | nothing)).

    Args:
        table: over evaluations.
        guidance_scale: w; or (least, greatest) for a table of all scales between, which finds that of each sample in the flow.
        without: the evaluations, counted from 0, that leave out the unconditional call; not the first.

    Raises:
        TypeError: if `table` is not a table.
        ValueError: for a table over calls, an evaluation that there is not, or the first; for a range that is none.

    Examples:
        >>> import bespoke_jax as bj
        >>> pairs = by_call(bj.classic.euler(2), 1.5)
        >>> pairs.nfe, pairs.fields, pairs.b[-1].tolist()
        (4, (0, 1, 0, 1), [1.25, -0.75, 1.25, -0.75])
        >>> by_call(bj.classic.euler(2), 1.5, without=[1]).b[-1].tolist()
        [2.0, -1.5, 0.5]
    """
    check_type("table", table, SolverTable, "a SolverTable (bespoke_jax.to_table makes one)").check("table")
    if table.fields is not None:
        raise ValueError("table: wanted one over evaluations of a guided flow, got one over calls already.")
    if table.corrections is not None:
        raise ValueError(
            "table: wanted one for all samples, got one with corrections for each class or scale; take those of calls apart: "
            "bespoke_jax.corrected(by_call(...))."
        )
    if not set(without) <= set(range(1, table.nfe)):
        raise ValueError(f"without: wanted evaluations from 1 to {table.nfe - 1}, got {sorted(without)}.")
    if np.ndim(guidance_scale) == 0:
        return _by_call(table, float(check_numbers("guidance_scale", guidance_scale, ())), without)
    low, high = (float(w) for w in check_numbers("guidance_scale", guidance_scale, (2,)))
    if not low < high:
        raise ValueError(f"guidance_scale: wanted a number, or (least, greatest), got {guidance_scale}.")
    # The factors are linear in w, and the first feature of a scale is -1 and 1 at the ends of the range.
    found, least, most = (_by_call(table, w, without) for w in ((low + high) / 2, low, high))
    found = dataclasses.replace(found, scale=None)
    none = Corrections.zeros(found, 2, "scale", (low, high))
    return dataclasses.replace(found, corrections=dataclasses.replace(none, b=none.b.at[0].set((most.b - least.b) / 2)))


def _by_call(table: SolverTable, w: float, without: Collection[int]) -> SolverTable:
    """`by_call` at one scale."""
    dtype = table.t.dtype
    evaluations, fields = [], []
    columns = np.zeros((0, 0))  # of each evaluation's velocity over the calls
    last = (0, 0)
    for j in range(table.nfe):
        own = len(fields)
        pair = (0,) if j in without else (0, 1)
        evaluations += [j] * len(pair)
        fields += pair
        last = last if j in without else (own, own + 1)
        grown = np.zeros((j + 1, len(fields)))
        grown[:j, :own] = columns
        grown[j, own] = 1.0
        grown[j, list(last)] += w, -w
        columns = grown
    m, b = len(fields), np.asarray(table.b, np.float64)
    # The state after a call is that of the next call's evaluation, or the last; the rows of a table begin with the second state.
    rows = [j - 1 for j in [*evaluations[1:], table.nfe]]
    first = 1.0 if table.first is None else float(table.first)
    a = np.array([first if row < 0 else float(table.a[row]) for row in rows])
    expanded = np.stack([np.zeros(m) if row < 0 else b[row] @ columns for row in rows])
    c = None if table.c is None else table.c[np.array([0, *(row + 1 for row in rows)])]
    return SolverTable(
        table.t[np.array(evaluations)],
        jnp.asarray(a, dtype),
        jnp.asarray(expanded, dtype),
        table.first,
        c,
        table.xi,
        tuple(fields),
        scale=w,
    )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LearnedCalls(LearnedTable):
    """A learned table of m network calls, conditional and unconditional ones, for a guided flow.

    The guided velocity costs two calls an evaluation. Here the calls are apart: each has a time, a state and factors of its own.
    `fit` tries to save the first pair, which is known beforehand on an ideal field. `nfe` counts calls.

    A fit that chooses its start learns a table over evaluations in its first half, and takes the calls apart from where that
    ends: learned apart from the first update on they may end lower than pairs do (docs/guidance.md).

    Attributes:
        raw, reference: as for `LearnedTable`; the reference has `fields`, which are not learned.

    Examples:
        >>> solver = LearnedCalls.euler(8)
        >>> solver.nfe, solver.reference.fields
        (8, (0, 1, 0, 1, 0, 1, 0, 1))
    """

    by_calls = True

    @property
    def family(self) -> str:
        """ "calls": the name of the family."""
        return "calls"

    @classmethod
    def euler(
        cls,
        num_calls: int,
        *,
        without: Collection[int] | None = None,
        at_once: bool = False,
        scales: Numbers | None = None,
        dtype: DTypeLike = jnp.float32,
    ) -> Self:
        """Euler's method by calls, before it learns; `fit` begins from better ones.

        Args:
            num_calls: m; in pairs, but for the evaluations `without` an unconditional call.
            without: as for `by_call`; None for no such evaluations, or the last if m is odd.
            at_once: the two calls of a pair, at states of their own, do not use each other, so that `solve` makes them as one of
                twice the batch. Only for pairs.
            scales: (least, greatest) guidance scale, for flows with a scale for each sample: factors that are quadratic in the
                scale, as those of `corrected` are. Not with `at_once`.
            dtype: of the table.

        Raises:
            TypeError: for a dtype that is not floating.
            ValueError: if so many calls cannot be made in this way.

        Examples:
            >>> LearnedCalls.euler(7, without=[3]).reference.fields
            (0, 1, 0, 1, 0, 1, 0)
        """
        num_calls = check_count("num_calls", num_calls, 2)
        if without is None:
            without = [num_calls // 2] * (num_calls % 2)
        nfe, odd = divmod(num_calls + len(set(without)), 2)
        if odd:
            raise ValueError(f"num_calls: wanted pairs, and single calls for {sorted(without)}, got {num_calls}.")
        if check_flag("at_once", at_once) and without:
            raise ValueError(f"at_once: wanted pairs alone, got single calls for {sorted(without)}.")
        table = by_call(euler(nfe, dtype), 1.0 if scales is None else check_numbers("scales", scales, (2,)), without)
        return cls.of(dataclasses.replace(table, block=2 if at_once else 1))

    @classmethod
    def on_paths(cls, flow: Flow, num_calls: int, key: KeyArray) -> Self:
        """Calls chosen on a few true paths of the flow: which network, when, and factors by least squares.

        A start for `fit`, nearer to the learned solver than those from the dedicated ones (docs/guidance.md):
        `fit(flow, LearnedCalls.on_paths(flow, 8, key), key, Recipe(choose_start=False))`. It costs 2,816 + 32 m network calls of
        single samples: both networks at 128 noises and at 40 times of 32 paths, and the m calls on these paths.

        Args:
            flow: guided, with one scale for all samples.
            num_calls: m, from 2 to 40.
            key: for the noise of the paths.

        Raises:
            TypeError, ValueError: if `flow` is not a guided flow, or has a scale for each sample; for another wrong argument.

        Examples:
            >>> import jax, bespoke_jax as bj
            >>> def velocity(params, t, x):
            ...     return params["condition"] - x
            >>> flow = bj.Flow(velocity, {"condition": jnp.ones(2)}, (2,), bj.schedulers.CondOT())
            >>> LearnedCalls.on_paths(bj.guided(flow, 1.5), 3, jax.random.key(0)).nfe
            3
        """
        check_type("flow", flow, Flow, "a bespoke_jax.Flow")
        num_calls, key = check_count("num_calls", num_calls, 2, NUM_TIMES), check_key(key)
        scale_of(flow)
        few, x0, xi = noises_and_image(flow, key)
        return cls.of(table_on_paths(few, num_calls, x0, xi))

    def suited(self, flow: Flow) -> Self:
        """As that of a `LearnedTable`.

        Raises:
            ValueError: if the flow is not `guided`, or has a scale for each sample and the solver factors for one alone.
        """
        of_one = self._span is None
        scales, suited = scale_of(flow) if of_one else scales_of(flow), super().suited(flow)
        held = dataclasses.replace(suited.reference, scale=float(scales) if of_one else None)
        return dataclasses.replace(suited, reference=held)

    @property
    def dedicated_nfe(self) -> int:
        """Evaluations of a dedicated solver to begin from: as many as there are conditional calls."""
        return len(self._pairs)

    def expanded(self, flow: Flow, table: SolverTable) -> SolverTable:
        """A table over evaluations by the same calls as this one's reference."""
        scales = scale_of(flow) if self._span is None else self._span
        return dataclasses.replace(by_call(table, scales, self._without), block=self.reference.block)

    def first_directions(self, flow: Flow) -> Float[np.ndarray, "P p"] | None:
        """The directions that keep both calls of a pair at one time and one state, as in a table over evaluations.

        None for factors that depend on the scale, which are not linear in those of such a table.
        """
        own, n, dtype = self.reference, len(self._pairs), self.reference.t.dtype
        if own.corrections is not None:
            return None
        form = None if own.first is None else zeros((), dtype), None if own.c is None else zeros(n + 1, dtype), own.xi
        pairs = LearnedTable.of(SolverTable(zeros(n, dtype), zeros(n, dtype), zeros((n, n), dtype), *form))
        of_times = np.repeat(np.eye(n), [1 + len(follows) for follows in self._pairs], axis=0)
        if own.first is None:  # the first time is not learned
            of_times = of_times[1:, 1:]

        def written(numbers):
            moved = pairs.with_raw(jax.device_put(numbers.astype(dtype)))
            return numbers_of(self.expanded(flow, moved.unrolled()))

        units, none = np.eye(pairs.num_parameters)[of_times.shape[1] :], written(np.zeros(pairs.num_parameters))
        of_factors = np.stack([written(unit) - none for unit in units], axis=1)
        return np.block(
            [
                [of_times, np.zeros((len(of_times), of_factors.shape[1]))],
                [np.zeros((len(of_factors), of_times.shape[1])), of_factors],
            ]
        )

    @property
    def _span(self) -> tuple[float, float] | None:
        """The range of guidance scales, if the factors depend on the scale of each sample."""
        own = self.reference.corrections
        return None if own is None else own.span

    @property
    def _pairs(self) -> list[str]:
        """Of each evaluation, what follows its conditional call: "1", or nothing."""
        assert self.reference.fields is not None
        return "".join(map(str, self.reference.fields)).split("0")[1:]

    @property
    def _without(self) -> list[int]:
        """The evaluations that leave out the unconditional call."""
        return [j for j, follows in enumerate(self._pairs) if not follows]


def noises_and_image(flow: Flow, key: KeyArray) -> tuple[Flow, jax.Array, jax.Array | None]:
    """(The flow of a few samples, their noises [B, *event], an image or None): what calls of a guided flow are placed on."""
    flow, few = dealt(flow, key, _NUM_IMAGES), slice(0, _NUM_PATHS)
    x0 = flow.as_array("x0", flow.noise(key, (_NUM_IMAGES,)))[0]
    image, _ = LearnedCalls.euler(2).suited(flow).with_samples(flow, x0, x0, _NUM_PATHS)
    return of_samples(flow, few), x0[few], image.reference.xi
