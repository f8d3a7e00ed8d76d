"""A table over calls placed on true paths: which network, when, and the factors by least squares (derived; docs/guidance.md).

Every state of a table is to be the true path's at its time, and its sample the true end. On a few true paths the best factors for
this are a least-squares problem for each state, in the noise, the image and the velocities of the calls before. How well a set of
calls would do is known from inner products alone, so that many sets can be compared at no call of the network.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from bespoke_jax.classic.adams import ipndm
from bespoke_jax.classic.exponential import unipc
from bespoke_jax.flow import kernels
from bespoke_jax.flow.classes import image_of
from bespoke_jax.flow.conditions import of_samples
from bespoke_jax.flow.flow import Flow
from bespoke_jax.flow.guided import of_call, scale_of
from bespoke_jax.run.paths import slices
from bespoke_jax.run.rows import cut, joined
from bespoke_jax.table import SolverTable

__all__ = ["NUM_TIMES", "Design", "WalkedPaths", "improved", "table_on_paths"]

NUM_TIMES = 40
"""Evaluations of the true paths, among whose times those of the calls are chosen."""

_CHUNK = 16  # as the stages of a fit, to share their compiled programs
_TINY = 1e-9
_GAIN = 1e-3  # a sweep of the search that gains less is the last
_SWEEPS = 10


def table_on_paths(
    flow: Flow, num_calls: int, x0: Float[jax.Array, "B *event"], xi: Float[jax.Array, "..."] | None
) -> SolverTable:
    """A table of m calls of the two networks of a guided flow that does well on the paths of these noises.

    It costs NUM_TIMES + m / 2 evaluations a path, and one compilation of the network.

    Args:
        flow: guided, with one scale for all samples.
        num_calls: m, at least 2.
        x0: noises, one for each of the flow's conditions if it is `given` some.
        xi: an image, as for `SolverTable.xi`, or None.
    """
    paths = WalkedPaths.of(flow, x0, xi)
    return _fitted(flow, paths, paths.design().best(num_calls), xi)


class WalkedPaths(NamedTuple):
    """True paths at the times of K evaluations, flattened.

    Attributes:
        x0: [B, *event].
        times: [K].
        known: [1 or 2, B * D] the noise, and the image if there is one.
        states: [K + 1, B * D] x at the times, and the end.
        velocities: [2, K, B * D] those of both networks there.
    """

    x0: jax.Array
    times: np.ndarray
    known: np.ndarray
    states: np.ndarray
    velocities: np.ndarray

    @classmethod
    def of(cls, flow: Flow, x0: jax.Array, xi: jax.Array | None) -> "WalkedPaths":
        """The paths of these noises; arguments are those of `table_on_paths`."""
        scheduler, w = flow.scheduler, float(scale_of(flow))
        table = ipndm(NUM_TIMES, order=4) if scheduler is None else unipc(NUM_TIMES, scheduler, grid="log_snr")
        states, velocities = [], []

        def recorded(i, t, x):
            states.append(x)
            velocities.append([_velocity(flow, field, t, x) for field in (0, 1)])
            return kernels.combine([1 + w, -w], velocities[-1])

        states.append(table.walk_calls(recorded, x0))
        known = [x0] if xi is None else [x0, jnp.broadcast_to(image_of("xi", xi, flow), x0.shape)]
        by_network = np.stack([_flat(each) for each in zip(*velocities, strict=True)])
        return cls(x0, np.asarray(table.t), _flat(known), _flat(states), by_network)

    def design(self) -> "Design":
        """What calls at these times would do."""
        return Design(_inner(np.concatenate([self.known, *self.velocities, self.states])), len(self.known))


def _velocity(flow: Flow, field: int, t: np.ndarray, x: jax.Array) -> jax.Array:
    """That of one of the two networks, in chunks."""
    parts = slices(len(x), _CHUNK)
    return joined(flow, [kernels.velocity(of_call(of_samples(flow, p), field), t, cut(flow, x, p)) for p in parts])


def _flat(arrays) -> np.ndarray:
    return np.stack([np.asarray(array, np.float32).reshape(-1) for array in arrays])


def _inner(vectors: np.ndarray) -> np.ndarray:
    """Mean products of vectors [N, B * D]: [N, N] in double precision, a part at a time."""
    total, size = np.zeros((len(vectors), len(vectors))), vectors.shape[1]
    for part in slices(size, 2**16):
        some = vectors[:, part].astype(np.float64)
        total += some @ some.T
    return total / size


class Design(NamedTuple):
    """What sets of calls would do on true paths, from inner products alone.

    A call is 2 k + f, of the network f at the time k, so that a sorted set is in the order in which the calls are made. The
    states of a table differ from the true ones by what least squares leaves, and its velocities by about as much: this counts as
    noise in the velocities, which keeps the factors small.

    Attributes:
        products: [N, N] mean products of: what is known, the velocities of network 0 and of 1 at K times, the states at K + 1.
        num_known: the noise, and the image if there is one.
    """

    products: np.ndarray
    num_known: int

    @property
    def num_times(self) -> int:
        return (len(self.products) - self.num_known - 1) // 3

    def errors(self, calls: np.ndarray) -> np.ndarray:
        """The mean squares [S] of the errors of the samples of S sets of calls [S, m]."""
        count, m = calls.shape
        times, field = divmod(calls, 2)
        known = np.broadcast_to(np.arange(self.num_known), (count, self.num_known))
        used = np.concatenate([known, self.num_known + field * self.num_times + times], axis=1)
        states = np.concatenate([times, np.full((count, 1), self.num_times)], axis=1)
        states = states + self.num_known + 2 * self.num_times
        noise = np.zeros((count, self.num_known))
        for i in range(m + 1):
            with_them, state = used[:, : self.num_known + i], states[:, i]
            matrix = self.products[with_them[:, :, None], with_them[:, None, :]]
            matrix = matrix + (noise + _TINY)[:, :, None] * np.eye(matrix.shape[-1])
            right = self.products[with_them, state[:, None]]
            factors = np.linalg.solve(matrix, right[:, :, None])[:, :, 0]
            left = np.maximum(self.products[state, state] - np.sum(right * factors, axis=1), 0.0)
            noise = np.concatenate([noise, left[:, None]], axis=1)
        return noise[:, -1]

    def best(self, num_calls: int) -> np.ndarray:
        """The best set found from calls at evenly spread times."""
        found = [self.improved(start) for start in _even_calls(num_calls)]
        return min(found, key=lambda calls: float(self.errors(calls[None])[0]))

    def improved(self, calls: np.ndarray) -> np.ndarray:
        """The calls [m], each in turn replaced by the best other one, until that gains little."""
        return improved(calls, 2 * self.num_times, _is_in_order, self.errors, _GAIN)


def improved(
    numbers: np.ndarray,
    count: int,
    are_allowed: Callable[[np.ndarray], np.ndarray],
    errors: Callable[[np.ndarray], np.ndarray],
    gain: float = 0.0,
) -> np.ndarray:
    """A sorted set of numbers below `count`, each in turn replaced by the best other one.

    Args:
        numbers: the set to begin from, [m].
        count: how many numbers there are to choose from.
        are_allowed, errors: functions of S sets [S, m], sorted: whether each may be chosen, and its error, [S].
        gain: a sweep that lowers the error by a smaller share is the last.
    """
    best = errors(numbers[None])[0]
    for _ in range(_SWEEPS):
        before = best
        for i in range(len(numbers)):
            others = np.repeat(numbers[None], count, axis=0)
            others[:, i] = np.arange(count)
            others = np.sort(others, axis=1)
            others = others[are_allowed(others)]
            if len(others):
                found = errors(others)
                least = np.argmin(found)
                if found[least] < best:
                    best, numbers = found[least], others[least]
        if best >= (1 - gain) * before:
            break
    return numbers


def _is_in_order(calls: np.ndarray) -> np.ndarray:
    """[S] whether no call is made twice, and each of the unconditional network follows one of the conditional."""
    field = calls % 2
    follows = (field[:, 0] == 0) & np.all((field[:, 1:] == 0) | (field[:, :-1] == 0), axis=1)
    return follows & np.all(np.diff(calls, axis=1) > 0, axis=1)


def _even_calls(num_calls: int) -> list[np.ndarray]:
    """Calls at evenly spread times: m / 2 to m / 4 of them, rounded up, followed by one of the unconditional network."""
    found = []
    for pairs in range(-(-num_calls // 4), num_calls // 2 + 1):
        nfe = num_calls - pairs
        times = ((np.arange(nfe) + 0.5) * NUM_TIMES / nfe).astype(int)
        found.append(np.sort(np.concatenate([2 * times, 2 * times[:pairs] + 1])))
    return found


def _fitted(flow: Flow, paths: WalkedPaths, calls: np.ndarray, xi: jax.Array | None) -> SolverTable:
    """The table of these calls, each state nearest to that of the true paths, by its own velocities."""
    times, fields = calls // 2, calls % 2
    known, m = len(paths.known), len(calls)
    terms, rows = list(paths.known), np.zeros((m + 1, known + m))
    for i in range(m + 1):
        vectors = np.stack(terms)
        state = paths.states[times[i] if i < m else -1]
        matrix, right = _inner(vectors), vectors.astype(np.float64) @ state / state.size
        matrix = matrix + _TINY * np.trace(matrix) * np.eye(len(matrix))
        rows[i, : len(terms)] = np.linalg.solve(matrix, right)
        if i < m:
            x = (rows[i, : len(terms)] @ vectors).astype(np.float32).reshape(paths.x0.shape)
            t = paths.times[times[i]].astype(np.float32)
            terms.append(_flat([_velocity(flow, int(fields[i]), t, jnp.asarray(x))])[0])
    arrays = paths.times[times], rows[1:, 0], rows[1:, known:], rows[0, 0]
    t, a, b, first = (jnp.asarray(np.asarray(array, np.float32)) for array in arrays)
    c = None if xi is None else jnp.asarray(rows[:, 1].astype(np.float32))
    return SolverTable(t, a, b, first, c, xi, tuple(int(field) for field in fields))
