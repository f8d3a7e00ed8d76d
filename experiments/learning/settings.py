"""The fields of a config of `train`, and the plan read from it. A mistake in a config is found here, before any work."""

import functools
import re
from typing import NamedTuple

import jax
import optax

import bespoke_jax as bj
from bespoke_jax.checks import check_choice, check_count, check_flag, check_positive
from bespoke_jax.learned.families import FAMILIES
from bespoke_jax.learned.steps import BASES
from bespoke_jax.learned.theta import LEARNED
from bespoke_jax.solver import LearnedSolver
from bespoke_jax.types import KeyArray
from experiments.run.checks import check_fields, check_section, check_seed
from experiments.run.config import ConfigDict

__all__ = ["Job", "Plan", "read", "read_fits", "stamp"]

# Adam is cached: equal stages share compiled programs, and two optax.adam(1e-2) are not equal.
_adam = functools.cache(optax.adam)
_OPTIMIZERS = {  # from the learning rate and the number of updates
    "lm": lambda rate, updates: bj.SMALL_STEPS,
    "lm_untested": lambda rate, updates: bj.untested_steps(updates),
    "adam": lambda rate, updates: _adam(rate),
}
_STAGE_FIELDS = (
    *("loss", "optimizer", "learning_rate", "num_iterations"),
    *("batch_size", "chunk_size", "keep_activations", "probes", "validate_every"),
)
_LARGEST_NUM_STEPS = 1000
_MOST_FAMILIES = 16  # with room to spare: a new family must not change the random keys of the old ones


class Job(NamedTuple):
    """One solver to learn."""

    base: str
    num_steps: int
    learned: str = "both"  # for rk1 and rk2 also "time" or "scale"
    fit: str = ""  # the fit's name, if the run learns the same solver by several fits

    @property
    def solver(self) -> str:
        """The solver's name in results.csv: "rk1-bespoke", "rk2-bespoke", or the family's own, "table"; then the fit's."""
        family = f"{self.base}-bespoke" if self.base in BASES else self.base
        return f"{family}-{self.fit}" if self.fit else family

    @property
    def start(self) -> LearnedSolver:
        """The solver that the fit begins with."""
        theta = bj.init_theta(self.base, self.num_steps)
        if self.learned == "both":
            return theta
        assert isinstance(theta, bj.Theta), "only rk1 and rk2 have parts"
        return theta.learning(self.learned)

    @property
    def name(self) -> str:
        """The solver's name in file names."""
        return f"{self.solver}-n{self.num_steps}"

    @property
    def nfe(self) -> int:
        """Velocity evaluations per sample, by which results are ordered; two network calls of a solver by the call are one."""
        return self.start.nfe // 2 if self.start.by_calls else self.start.nfe

    @property
    def index(self) -> int:
        """The solver's own number, whatever else the run learns: random keys depend on it. Fits of one solver share it."""
        return self.num_steps * _MOST_FAMILIES + list(FAMILIES).index(self.base)


_PURPOSES = ("train", "validation", "test", "fit")


class Plan(NamedTuple):
    """A config after checking."""

    seed: int
    jobs: tuple[Job, ...]
    stages: tuple[bj.Stage, ...]
    budget: int  # velocity evaluations per solver, by `bj.frugal` in place of the stages; 0 for no limit
    choose_start: bool
    num_start_paths: int  # paths on which the best few starts are compared
    num_paths: dict[str, int]
    rtol: float
    atol: float
    num_samples: int

    def key(self, purpose: str, index: int = 0) -> KeyArray:
        """The random key for a purpose: a function of the seed, so that a resumed run draws the same numbers."""
        return jax.random.fold_in(jax.random.fold_in(jax.random.key(self.seed), _PURPOSES.index(purpose)), index)


def read(config: ConfigDict) -> Plan:
    """The plan of a config.

    Raises:
        ValueError: for a field that is missing, unknown or out of range; names the field, what was wanted and what came.
    """
    check_fields("config", config, ("workdir", "seed", "flow", "solver", "solvers", "paths", "fit", "report"))
    check_fields("config.paths", config.paths, ("num_train", "num_validation", "num_test", "rtol", "atol"))
    check_fields("config.report", config.report, ("num_samples",))
    num_paths = {
        name: check_count(f"config.paths.num_{name}", config.paths[f"num_{name}"])
        for name in ("train", "validation", "test")
    }
    stages = _stages(config.fit)
    return Plan(
        seed=check_seed("config.seed", config.seed),
        jobs=_jobs(config),
        stages=stages,
        budget=check_count("config.fit.budget", config.fit.budget, 0),
        choose_start=check_flag("config.fit.choose_start", config.fit.choose_start),
        num_start_paths=check_count(
            "config.fit.num_start_paths", config.fit.get("num_start_paths", bj.Recipe.num_start_paths)
        ),
        num_paths=num_paths,
        rtol=check_positive("config.paths.rtol", config.paths.rtol),
        atol=check_positive("config.paths.atol", config.paths.atol),
        num_samples=check_count("config.report.num_samples", config.report.num_samples, 1, num_paths["test"]),
    )


def read_fits(config: ConfigDict) -> dict[str, Plan]:
    """The plan of each fit of an ablation: its config has, in place of `fit`, several such sections by name in `fits`.

    Raises:
        ValueError: as `read` does.
    """
    shared = {name: value for name, value in config.items() if name != "fits"}
    wanted = "with one section like fit or more"
    fits = check_section("config.fits", config.get("fits"), wanted)
    if not len(fits):
        raise ValueError(f"config.fits: wanted a ConfigDict {wanted}, got an empty one.")
    plans = {}
    for name, fit in fits.items():
        if not re.fullmatch(r"[\w-]+", name):
            raise ValueError(
                f"config.fits: wanted names of letters, digits, - and _, which name files too, got {name!r}."
            )
        try:
            plan = read(ConfigDict(shared | dict(fit=fit)))
        except ValueError as error:
            raise ValueError(str(error).replace("config.fit", f"config.fits.{name}", 1)) from None
        if plan.budget:
            raise ValueError(
                f"config.fits.{name}.budget: wanted 0, since an ablation compares fits to the same paths, got {plan.budget}."
            )
        plans[name] = plan._replace(jobs=tuple(job._replace(fit=name) for job in plan.jobs))
    return plans


def stamp(config: ConfigDict, fingerprint: str) -> dict:
    """What results depend on: the config, and the fingerprint of the flow's weights in place of their path."""
    content = {name: value for name, value in config.to_dict().items() if name not in ("workdir", "report")}
    flow = {name: value for name, value in content["flow"].items() if name not in ("path", "missing", "remedy")}
    return content | {"flow": flow | {"fingerprint": fingerprint}}


def _jobs(config) -> tuple[Job, ...]:
    jobs = _listed(config)
    for job in jobs:
        try:
            start = job.start
        except ValueError as error:  # "times" with one step has nothing to learn
            raise ValueError(f"config.solvers.{job.base}: {error}") from None
        if start.by_calls and start.nfe % 2:
            raise ValueError(f"config.solvers.{job.base}: wanted even numbers of network calls, got {start.nfe}.")
    return jobs


def _listed(config) -> tuple[Job, ...]:
    """The job of `config.solver`, or those of `config.solvers` where that names no number of steps."""
    check_fields("config.solver", config.solver, ("base", "num_steps"))
    check_choice("config.solver.base", config.solver.base, FAMILIES)
    if check_count("config.solver.num_steps", config.solver.num_steps, 0, _LARGEST_NUM_STEPS):
        return (_learning(Job(config.solver.base, config.solver.num_steps), config.fit.learned),)
    jobs = []
    check_section("config.solvers", config.solvers, "of numbers of steps, rk2=(4, 5)")
    for base, counts in config.solvers.items():
        check_choice("config.solvers", base, FAMILIES)
        if not isinstance(counts, tuple | list):
            raise ValueError(
                f"config.solvers.{base}: wanted a tuple of numbers of steps such as (4, 5, 8, 10), got {counts!r}."
            )
        jobs += [Job(base, check_count(f"config.solvers.{base}", count, 1, _LARGEST_NUM_STEPS)) for count in counts]
    if not jobs or len(set(jobs)) < len(jobs):
        raise ValueError(f"config.solvers: wanted one solver or more, none twice, got {config.solvers.to_dict()}.")
    return tuple(sorted(_learning(job, config.fit.learned) for job in jobs))


def _learning(job, learned) -> Job:
    check_choice("config.fit.learned", learned, LEARNED)
    if learned != "both" and job.base not in BASES:
        raise ValueError(
            f"config.fit.learned: wanted 'both' for the family {job.base!r}, which has no parts, got {learned!r}."
        )
    return job._replace(learned=learned)


def _stages(fit) -> tuple[bj.Stage, ...]:
    check_section("config.fit", fit, "with learned, choose_start, budget, stage1, stage2, ...")
    optional = {"num_start_paths"} & set(fit)
    names = [f"stage{i + 1}" for i in range(max(1, len(fit) - len(optional) - 3))]
    check_fields("config.fit", fit, ("learned", "choose_start", "budget", *optional, *names))
    check_choice("config.fit.learned", fit.learned, LEARNED)
    read = (_stage(f"config.fit.{name}", fit[name]) for name in names)
    stages = tuple(stage for stage in read if stage is not None)
    if not stages:
        raise ValueError("config.fit: wanted num_iterations >= 1 in at least one stage, got 0 in all.")
    return stages


def _stage(field, stage) -> bj.Stage | None:
    """The stage of a section; None if it has no iterations."""
    check_fields(field, stage, _STAGE_FIELDS)
    check_choice(f"{field}.loss", stage.loss, bj.losses.LOSSES)
    check_choice(f"{field}.optimizer", stage.optimizer, _OPTIMIZERS)
    options = stage.to_dict()
    updates = check_count(f"{field}.num_iterations", stage.num_iterations, 0)
    rate = check_positive(f"{field}.learning_rate", options.pop("learning_rate"))
    options |= dict(optimizer=_OPTIMIZERS[stage.optimizer](rate, max(1, updates)), num_iterations=max(1, updates))
    try:  # a stage that is left out is checked, too
        checked = bj.Stage(**options)
    except ValueError as error:
        raise ValueError(str(error).replace("Stage", field, 1)) from None
    return checked if updates else None
