"""What a config of `train` may say, and the plan read from it. A mistake in a config is found here, before any work."""

import functools
import re
from typing import NamedTuple

import jax
import optax
from ml_collections import ConfigDict

import bespoke_jax as bj
from bespoke_jax.learned.families import FAMILIES
from bespoke_jax.learned.steps import BASES
from bespoke_jax.learned.theta import LEARNED
from bespoke_jax.table import LearnedSolver
from experiments.run.checks import fields, flag, integer, one_of, positive, seed

__all__ = ["Job", "Plan", "read", "read_fits", "stamp"]

# Adam cached, for equal stages share what is compiled and two optax.adam(1e-2) are not equal.
_OPTIMIZERS = {"lm": lambda _: bj.SMALL_STEPS, "adam": functools.cache(optax.adam)}
_STAGE_FIELDS = (
    "loss",
    "optimizer",
    "learning_rate",
    "num_iterations",
    "batch_size",
    "chunk_size",
    "probes",
    "validate_every",
)
_LARGEST_NUM_STEPS = 1000
_MOST_FAMILIES = 16  # leaves room: a new family must not change the random keys of the old ones


class Job(NamedTuple):
    """One solver to learn."""

    base: str
    num_steps: int
    learned: str = "both"  # or "time", "scale", of rk1 and rk2
    fit: str = ""  # its name, if the run learns the same solver by several

    @property
    def solver(self) -> str:
        """The solver's name in results.csv: "rk1-bespoke", "rk2-bespoke", or the family's own, "table"; then the fit's."""
        family = f"{self.base}-bespoke" if self.base in BASES else self.base
        return f"{family}-{self.fit}" if self.fit else family

    @property
    def start(self) -> LearnedSolver:
        """Where it begins."""
        theta = bj.init_theta(self.base, self.num_steps)
        return theta if self.learned == "both" else theta.learning(self.learned)

    @property
    def name(self) -> str:
        """Its name in files."""
        return f"{self.solver}-n{self.num_steps}"

    @property
    def nfe(self) -> int:
        """Velocity evaluations per sample."""
        return self.start.nfe

    @property
    def index(self) -> int:
        """A number of its own whatever else the run learns: random keys hang on it. Fits of one solver draw the same paths."""
        return self.num_steps * _MOST_FAMILIES + list(FAMILIES).index(self.base)


_PURPOSES = ("train", "validation", "test", "fit")


class Plan(NamedTuple):
    """A config after checking."""

    seed: int
    jobs: tuple[Job, ...]
    stages: tuple[bj.Stage, ...]
    budget: int  # velocity evaluations per solver, by `bj.frugal` in place of the stages; 0 for no limit
    choose_start: bool
    num_paths: dict[str, int]
    rtol: float
    atol: float
    num_samples: int

    def key(self, purpose: str, index: int = 0):
        """The random key for a purpose: a function of the seed alone, so that a resumed run draws the same numbers."""
        return jax.random.fold_in(jax.random.fold_in(jax.random.key(self.seed), _PURPOSES.index(purpose)), index)


def read(config: ConfigDict) -> Plan:
    """The plan of a config.

    Raises:
        ValueError: for a field that is missing, unknown or out of range; names it, its value and what is wanted.
    """
    fields("config", config, ("workdir", "seed", "flow", "solver", "solvers", "paths", "fit", "report"))
    fields("config.paths", config.paths, ("num_train", "num_validation", "num_test", "rtol", "atol"))
    fields("config.report", config.report, ("num_samples",))
    num_paths = {
        name: integer(f"config.paths.num_{name}", config.paths[f"num_{name}"], 1)
        for name in ("train", "validation", "test")
    }
    stages = _stages(config.fit)
    return Plan(
        seed=seed("config.seed", config.seed),
        jobs=_jobs(config),
        stages=stages,
        budget=integer("config.fit.budget", config.fit.budget, 0),
        choose_start=flag("config.fit.choose_start", config.fit.choose_start),
        num_paths=num_paths,
        rtol=positive("config.paths.rtol", config.paths.rtol),
        atol=positive("config.paths.atol", config.paths.atol),
        num_samples=integer("config.report.num_samples", config.report.num_samples, 1, num_paths["test"]),
    )


def read_fits(config: ConfigDict) -> dict[str, Plan]:
    """The plan of each fit of an ablation: a config that has several sections like `fit`, by name, in `fits`.

    Raises:
        ValueError: as `read` does.
    """
    shared = {name: value for name, value in config.items() if name != "fits"}
    if not isinstance(config.get("fits"), ConfigDict) or not len(config.fits):
        raise ValueError(
            f"config.fits: got {config.get('fits')!r}, wanted a ConfigDict with one section like fit or more."
        )
    plans = {}
    for name, fit in config.fits.items():
        if not re.fullmatch(r"[\w-]+", name):
            raise ValueError(
                f"config.fits: got the name {name!r}, wanted letters, digits, - and _: files are named so."
            )
        try:
            plan = read(ConfigDict(shared | dict(fit=fit)))
        except ValueError as error:
            raise ValueError(str(error).replace("config.fit", f"config.fits.{name}", 1)) from None
        if plan.budget:
            raise ValueError(
                f"config.fits.{name}.budget: got {plan.budget}, wanted 0: an ablation compares fits to the same paths."
            )
        plans[name] = plan._replace(jobs=tuple(job._replace(fit=name) for job in plan.jobs))
    return plans


def stamp(config: ConfigDict, fingerprint: str) -> dict:
    """What results depend on: the config, and the flow's weights by their fingerprint wherever they lie."""
    content = {name: value for name, value in config.to_dict().items() if name not in ("workdir", "report")}
    flow = {name: value for name, value in content["flow"].items() if name not in ("path", "missing", "remedy")}
    return content | {"flow": flow | {"fingerprint": fingerprint}}


def _jobs(config) -> tuple[Job, ...]:
    jobs = _asked(config)
    for job in jobs:
        try:
            job.start  # noqa: B018
        except ValueError as error:  # of "times" one step is nothing to learn
            raise ValueError(f"config.solvers.{job.base}: {error}") from None
    return jobs


def _asked(config) -> tuple[Job, ...]:
    fields("config.solver", config.solver, ("base", "num_steps"))
    one_of("config.solver.base", config.solver.base, FAMILIES)
    if integer("config.solver.num_steps", config.solver.num_steps, 0, _LARGEST_NUM_STEPS):
        return (_learning(Job(config.solver.base, config.solver.num_steps), config.fit.learned),)
    jobs = []
    if not isinstance(config.solvers, ConfigDict):
        raise ValueError(
            f"config.solvers: got {config.solvers!r}, wanted a ConfigDict of numbers of steps: rk2=(4, 5)."
        )
    for base, counts in config.solvers.items():
        one_of("config.solvers", base, FAMILIES)
        if not isinstance(counts, tuple | list):
            raise ValueError(
                f"config.solvers.{base}: got {counts!r}, wanted a tuple of numbers of steps: (4, 5, 8, 10)."
            )
        jobs += [Job(base, integer(f"config.solvers.{base}", count, 1, _LARGEST_NUM_STEPS)) for count in counts]
    if not jobs or len(set(jobs)) < len(jobs):
        raise ValueError(f"config.solvers: got {config.solvers.to_dict()}, wanted one solver or more, none twice.")
    return tuple(sorted(_learning(job, config.fit.learned) for job in jobs))


def _learning(job, learned) -> Job:
    one_of("config.fit.learned", learned, LEARNED)
    if learned != "both" and job.base not in BASES:
        raise ValueError(f"config.fit.learned: got {learned!r}; of the family {job.base!r} all is learned: 'both'.")
    return job._replace(learned=learned)


def _stages(fit) -> tuple[bj.Stage, ...]:
    if not isinstance(fit, ConfigDict):
        raise ValueError(
            f"config.fit: got {fit!r}, wanted a ConfigDict with learned, choose_start, budget, stage1, stage2, ..."
        )
    names = [f"stage{i + 1}" for i in range(max(1, len(fit) - 3))]
    fields("config.fit", fit, ("learned", "choose_start", "budget", *names))
    one_of("config.fit.learned", fit.learned, LEARNED)
    stages = []
    for name in names:
        field, stage = f"config.fit.{name}", fit[name]
        fields(field, stage, _STAGE_FIELDS)
        one_of(f"{field}.loss", stage.loss, bj.losses.LOSSES)
        one_of(f"{field}.optimizer", stage.optimizer, _OPTIMIZERS)
        options = stage.to_dict()
        options["optimizer"] = _OPTIMIZERS[options["optimizer"]](
            positive(f"{field}.learning_rate", options.pop("learning_rate"))
        )
        skipped = integer(f"{field}.num_iterations", stage.num_iterations, 0) == 0
        try:
            checked = bj.Stage(**options | ({"num_iterations": 1} if skipped else {}))
        except ValueError as error:
            raise ValueError(str(error).replace("Stage", field, 1)) from None
        stages += [] if skipped else [checked]
    if not stages:
        raise ValueError("config.fit: num_iterations is 0 in every stage, wanted at least 1 in one of them.")
    return tuple(stages)
