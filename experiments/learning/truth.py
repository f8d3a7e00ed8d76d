"""The true paths of a run: solved once, kept in its folder, shared by all solvers."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

import bespoke_jax as bj
from bespoke_jax.flow import conditions
from experiments.learning.settings import Plan
from experiments.run import processes, stopping
from experiments.run.runs import Run

__all__ = ["NUM_CURVES", "TestSet", "Truth", "dealt", "solve", "test_set"]

NUM_CURVES = 4  # paths of the test set that are kept whole, for the report
_CURVE_POINTS = 65


class TestSet(NamedTuple):
    """Fresh noise that no fit has seen."""

    x0: Float[np.ndarray, "N *event"]
    x1: Float[np.ndarray, "N *event"]
    evaluations: Int[np.ndarray, "N"]  # the cost of the true paths
    curves: Float[np.ndarray, "points few *event"]  # whole paths of the first NUM_CURVES, at equal times


class Truth(NamedTuple):
    """The true paths of a run, from three independent sets of noises. Under a budget each fit solves its own first two sets."""

    train: bj.Paths | None
    validation: bj.Paths | None
    test: TestSet


def solve(flow: bj.Flow, plan: Plan, run: Run, *others: Plan) -> Truth:
    """Solve the three sets, or read those that the run has solved already.

    Args:
        flow: the velocity field.
        plan: the run's plan.
        run: the run.
        others: further plans whose fits use these paths. Whole paths are kept if a loss of any plan needs them, else the ends.
    """
    ends_only = all(stage.is_of_ends for each in (plan, *others) for stage in each.stages)

    def paths(purpose):
        def compute():
            # Conditions are not kept: dealing them out again is cheap, and they may be any pytree.
            fields = vars(_paths(flow, plan, purpose, ends_only)).items()
            return {name: value for name, value in fields if name in _ARRAYS and value is not None}

        arrays = run.arrays(
            purpose, compute, lambda found: _check_paths(found, _noises(flow, plan, purpose), ends_only)
        )
        fields: dict[str, Any] = dict.fromkeys(_ARRAYS)
        fields |= {name: jnp.asarray(value) for name, value in arrays.items()}
        condition = bj.sharding.gather(flow, conditions.condition_of(dealt(flow, plan, purpose)))
        return bj.Paths(**fields, batch_shape=(plan.num_paths[purpose],), condition=condition)

    sets: dict[str, Any] = dict(train=None, validation=None)
    with processes.bar(("test",) if plan.budget else ("train", "validation", "test"), desc="true paths") as progress:
        for purpose in progress:
            progress.set_postfix_str(f"{purpose}: {plan.num_paths[purpose]}")
            sets[purpose] = test_set(flow, plan, run) if purpose == "test" else paths(purpose)
            stopping.stop_if_asked()
    return Truth(**sets)


def test_set(flow: bj.Flow, plan: Plan, run: Run) -> TestSet:
    """The test set alone."""

    def ends():
        # Of the first batch whole paths, of the others the ends.
        first = max(NUM_CURVES, plan.stages[0].chunk_size)
        whole = _paths(flow, plan, "test", part=slice(first))
        solved = [whole]
        if plan.num_paths["test"] > first:
            solved.append(_paths(flow, plan, "test", ends_only=True, part=slice(first, None)))
        curves = whole.take(jnp.arange(min(NUM_CURVES, whole.num_paths))).at(jnp.linspace(0, 1, _CURVE_POINTS))
        x0, x1, evaluations = (
            np.concatenate([np.asarray(getattr(paths, name)) for paths in solved])
            for name in ("x0", "x1", "evaluations")
        )
        return dict(x0=x0, x1=x1, evaluations=evaluations, curves=curves)

    return TestSet(**run.arrays("test", ends, lambda found: _check_ends(found, _noises(flow, plan, "test"))))


def dealt(flow: bj.Flow, plan: Plan, purpose: str) -> bj.Flow:
    """The flow of a set's samples: the flow itself, unless it is `given` conditions, which are dealt out."""
    return conditions.dealt(flow, jax.random.fold_in(plan.key(purpose), 0), plan.num_paths[purpose])


def _noises(flow, plan, purpose):
    return flow.ravel(dealt(flow, plan, purpose).noise(plan.key(purpose), (plan.num_paths[purpose],)))


_ENDS = ("times", "states", "evaluations")
_ARRAYS = (*_ENDS, "velocities", "middles")


def _check_paths(found: dict, x0, ends_only: bool):
    """Raise ValueError unless these arrays can be the paths of these noises. Whole paths serve where ends are enough."""
    whole = found.keys() == set(_ARRAYS)
    if not whole and not (ends_only and found.keys() == set(_ENDS)):
        wanted = _ENDS if ends_only else _ARRAYS
        raise ValueError(f"wanted the arrays {', '.join(sorted(wanted))}, got {', '.join(sorted(found))}")
    points = found["times"].shape[-1] if found["times"].ndim else 0
    event = x0.shape[1:]
    shapes = dict(
        times=(len(x0), points),
        states=(len(x0), points, *event),
        velocities=(len(x0), points, *event),
        middles=(len(x0), points - 1, *event),
        evaluations=(len(x0),),
    )
    _check_shapes(found, {name: shape for name, shape in shapes.items() if name in found})
    _check_noises(found["states"][:, 0], x0)


def _check_ends(found: dict, x0):
    """Raise ValueError unless these arrays can be the test set of these noises."""
    if found.keys() != set(TestSet._fields):
        raise ValueError(f"wanted the arrays {', '.join(TestSet._fields)}, got {', '.join(sorted(found))}")
    curves = (_CURVE_POINTS, min(NUM_CURVES, len(x0)), *x0.shape[1:])
    _check_shapes(found, dict(x0=x0.shape, x1=x0.shape, evaluations=x0.shape[:1], curves=curves))
    _check_noises(found["x0"], x0)


def _check_shapes(found, shapes):
    for name, shape in shapes.items():
        if found[name].shape != shape:
            raise ValueError(f"{name}: wanted an array of shape {shape}, got {found[name].shape}")
        if not np.all(np.isfinite(found[name])):
            raise ValueError(f"{name}: wanted finite numbers, got NaN or infinity")


def _check_noises(found, x0):
    if not np.allclose(found, x0, atol=1e-4):  # devices round noises differently
        raise ValueError("wanted the noises of this run's seed, got others")


def _paths(flow, plan, purpose, ends_only=False, part=slice(None)) -> bj.Paths:
    """The paths of a set, or a part of them."""
    x0 = _noises(flow, plan, purpose)[part]
    some = conditions.of_samples(dealt(flow, plan, purpose), part)
    # The network gets as many samples at once as in the fit, so that it is compiled once.
    batch_size = plan.stages[0].chunk_size
    try:
        solved = bj.ground_truth(some, x0, plan.rtol, plan.atol, batch_size=batch_size, ends_only=ends_only)
    except (FloatingPointError, RuntimeError) as error:
        if isinstance(error, jax.errors.JaxRuntimeError):  # out of memory, say
            raise
        raise SystemExit(f"true paths, {purpose}: {error}") from None
    return bj.sharding.gather(flow, solved)
