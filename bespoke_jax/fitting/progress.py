"""A progress bar for fits: a callback that is also told when a fit begins and ends."""

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

from bespoke_jax.checks import check_flag
from bespoke_jax.fitting.history import FitState
from bespoke_jax.fitting.stages import Stage
from bespoke_jax.solver import LearnedSolver

__all__ = ["ProgressBar", "Say", "progress_bar", "quiet", "say_of", "told"]

Say = Callable[[str], None]
"""Shows a line of text: what a fit is doing before its first iteration."""


def progress_bar(
    callback: Callable[[FitState, dict], None] | None = None, *, label: str | None = None, disable: bool = False
) -> "ProgressBar":
    """A progress bar for `fit(..., callback=progress_bar())`: the iterations of all stages, and the figure on held-out paths.

    It is opened when the fit begins, and closed when it ends, also by an error. Before the first iteration it says what is going
    on: true paths, their accuracy, the starts that are tried. In `fit_ladder` each solver has its own. It needs tqdm, which the
    extra `cli` includes, and is a widget in notebooks.

    Args:
        callback: a callback of your own, called first at every look at the held-out paths.
        label: what stands before the bar; None for the solver's family and NFE.
        disable: show nothing, as on all processes but the first.

    Raises:
        TypeError: if `callback` is not a function, or `label` not text.
        ValueError: if `disable` is not True or False.
        ModuleNotFoundError: without tqdm.

    Examples:
        >>> import jax, bespoke_jax as bj
        >>> flow, seen = bj.analytic.gaussian(mean=[1.0, -1.0], std=0.3), []
        >>> recipe = bj.Recipe(stages=(bj.Stage("endpoint", 4),), num_paths=16)
        >>> bar = progress_bar(lambda state, record: seen.append(record["iteration"]), disable=True)
        >>> _ = bj.fit(flow, bj.init_theta("rk1", 2), jax.random.key(0), recipe, callback=bar)
        >>> seen
        [0, 4]
    """
    if callback is not None and not callable(callback):
        raise TypeError(f"callback: wanted a function of (state, record), got {type(callback).__name__}.")
    if label is not None and not isinstance(label, str):
        raise TypeError(f"label: wanted text, got {type(label).__name__}.")
    return ProgressBar(callback, label, check_flag("disable", disable))


class ProgressBar:
    """What `progress_bar` returns: a callback with `begin`, `say` and `end`, which `fit` calls."""

    def __init__(self, callback: Callable[[FitState, dict], None] | None, label: str | None, disable: bool):
        self._new = _tqdm()
        self._callback, self._label, self._disable = callback, label, disable
        self._bar: Any = None
        self._stages: tuple[Stage, ...] = ()

    def begin(self, solver: LearnedSolver, stages: tuple[Stage, ...], done: int = 0) -> None:
        """Open the bar.

        Args:
            solver: what is learned.
            stages: those of the fit.
            done: iterations that an earlier fit has done.
        """
        self.end()
        self._stages = stages
        self._bar = self._new(
            total=sum(stage.num_iterations for stage in stages),
            initial=done,
            desc=self._label or f"{solver.family}, NFE {solver.nfe}",
            unit="it",
            disable=self._disable,
        )
        self.say(f"going on from iteration {done}" if done else "beginning")

    def __call__(self, state: FitState, record: dict[str, Any]) -> None:
        """Show a look at the held-out paths."""
        if self._callback is not None:
            self._callback(state, record)
        if self._bar is None:
            return
        iteration, rmse, best = record["iteration"], record["rmse"], float(state.best_rmse)
        self._bar.update(iteration - self._bar.n)
        shown = f"PSNR {record['psnr']:.2f} dB"
        if math.isfinite(rmse) and math.isfinite(best) and rmse > 0 and best > 0:
            shown += f", best {record['psnr'] + 20 * math.log10(rmse / best):.2f} dB"
        self.say(f"{self._where(record['stage'], iteration)}: {shown}")

    def _where(self, stage: str, iteration: int) -> str:
        """The stage, and how far it is, if there are several."""
        before = 0
        for number, one in enumerate(self._stages, 1):
            if iteration <= before + one.num_iterations and iteration and len(self._stages) > 1:
                return f"stage {number} of {len(self._stages)}, {stage}, {iteration - before} of {one.num_iterations}"
            before += one.num_iterations
        return stage

    def say(self, text: str) -> None:
        """Write `text` behind the bar."""
        if self._bar is not None:
            self._bar.set_postfix_str(text)

    def end(self) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def quiet(text: str) -> None:
    """A `Say` that shows nothing."""


def say_of(callback: Any) -> Say:
    """The `say` of a callback that has `begin`, `say` and `end`, as a `ProgressBar` does; of another one, `quiet`."""
    has_all = all(callable(getattr(callback, name, None)) for name in ("begin", "say", "end"))
    return callback.say if has_all else quiet


@contextlib.contextmanager
def told(callback: Any, solver: LearnedSolver, stages: tuple[Stage, ...], state: FitState | None) -> Iterator[None]:
    """Tell a callback that has `begin` and `end`, as a `ProgressBar` does, when a fit begins (or goes on) and ends."""
    if not (hasattr(callback, "begin") and hasattr(callback, "end")):
        yield
        return
    callback.begin(solver, stages, 0 if state is None else int(state.iteration))
    try:
        yield
    finally:
        callback.end()


def _tqdm() -> Any:
    """tqdm's bar for a terminal or a notebook."""
    try:
        from tqdm.auto import tqdm
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("progress_bar: wanted tqdm, which is not installed: pip install tqdm.") from error
    return tqdm
