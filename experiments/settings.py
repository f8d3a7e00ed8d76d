"""What a config of `train` may say, and the plan read from it. Every mistake in a config is found here, before any work."""

import math
import numbers
import pathlib
from typing import Any, NamedTuple

from absl import app
from ml_collections import ConfigDict

from bespoke_jax.losses import LOSSES
from bespoke_jax.theta import BASES

__all__ = ["OPTIMIZERS", "Job", "Plan", "StagePlan", "parse_flags", "read", "read_config_flag"]

OPTIMIZERS = ("lm", "adam")
_LARGEST_NUM_STEPS = 1000


class Job(NamedTuple):
    """One solver to learn."""

    base: str
    num_steps: int

    @property
    def solver(self) -> str:
        """The solver's name in results.csv."""
        return f"{self.base}-bespoke"

    @property
    def name(self) -> str:
        """Its name in files."""
        return f"{self.solver}-n{self.num_steps}"

    @property
    def nfe(self) -> int:
        return BASES[self.base] * self.num_steps

    @property
    def index(self) -> int:
        """A number of its own whatever else is learned in the run: the random keys hang on it."""
        return self.num_steps * len(BASES) + list(BASES).index(self.base)


class StagePlan(NamedTuple):
    """One stage of the fit, in plain words; `learn` makes a `bespoke_jax.fit.Stage` of it."""

    loss: str
    optimizer: str
    learning_rate: float
    num_iterations: int
    batch_size: int
    validate_every: int


class Plan(NamedTuple):
    """A config after checking."""

    seed: int
    jobs: tuple[Job, ...]
    stages: tuple[StagePlan, ...]
    choose_start: bool
    num_paths: dict[str, int]
    rtol: float
    atol: float
    num_samples: int

    @property
    def num_iterations(self) -> int:
        return sum(stage.num_iterations for stage in self.stages)


def read(config: ConfigDict) -> Plan:
    """The plan of a config.

    Raises:
        ValueError: naming the field, its value and what is wanted, for a field that is missing, unknown or out of range.
    """
    _fields("config", config, ("workdir", "seed", "flow", "solver", "solvers", "paths", "fit", "report"))
    paths, fit, report = config.paths, config.fit, config.report
    _fields("config.paths", paths, ("num_train", "num_validation", "num_test", "rtol", "atol"))
    _fields("config.report", report, ("num_samples",))
    num_paths = {name: _integer(f"config.paths.num_{name}", paths[f"num_{name}"], 1) for name in ("train", "validation", "test")}
    return Plan(
        seed=_integer("config.seed", config.seed, 0),
        jobs=_jobs(config),
        stages=_stages(fit, num_paths["train"]),
        choose_start=bool(fit.choose_start),
        num_paths=num_paths,
        rtol=_positive("config.paths.rtol", paths.rtol),
        atol=_positive("config.paths.atol", paths.atol),
        num_samples=_integer("config.report.num_samples", report.num_samples, 1, num_paths["test"]),
    )


def _jobs(config) -> tuple[Job, ...]:
    _fields("config.solver", config.solver, ("base", "num_steps"))
    _one_of("config.solver.base", config.solver.base, BASES)
    if _integer("config.solver.num_steps", config.solver.num_steps, 0, _LARGEST_NUM_STEPS):
        return (Job(config.solver.base, config.solver.num_steps),)
    jobs = []
    for base, counts in config.solvers.items():
        _one_of("config.solvers", base, BASES)
        if not isinstance(counts, tuple | list):
            raise ValueError(f"config.solvers.{base}: got {counts!r}, wanted a tuple of numbers of steps such as (4, 5, 8, 10).")
        jobs += [Job(base, _integer(f"config.solvers.{base}", count, 1, _LARGEST_NUM_STEPS)) for count in counts]
    if not jobs or len(set(jobs)) < len(jobs):
        raise ValueError(
            f"config.solvers: got {config.solvers.to_dict()}, wanted at least one solver and none twice, such as rk2=(4, 5)."
        )
    return tuple(sorted(jobs))


def _stages(fit, num_train) -> tuple[StagePlan, ...]:
    names = [name for name in sorted(fit) if name != "choose_start"]
    _fields("config.fit", fit, ("choose_start", *(f"stage{i + 1}" for i in range(max(1, len(names))))))
    stages = []
    for name in names:
        field, stage = f"config.fit.{name}", fit[name]
        _fields(field, stage, StagePlan._fields)
        _one_of(f"{field}.loss", stage.loss, LOSSES)
        _one_of(f"{field}.optimizer", stage.optimizer, OPTIMIZERS)
        _positive(f"{field}.learning_rate", stage.learning_rate)
        _integer(f"{field}.num_iterations", stage.num_iterations, 0)
        _integer(f"{field}.batch_size", stage.batch_size, 1, num_train)
        _integer(f"{field}.validate_every", stage.validate_every, 1)
        if stage.num_iterations:
            stages.append(StagePlan(**stage))
    if not stages:
        raise ValueError("config.fit: every stage has num_iterations=0, wanted at least one iteration of one stage.")
    return tuple(stages)


def _fields(name: str, section: Any, wanted: tuple[str, ...]):
    if not isinstance(section, ConfigDict):
        raise ValueError(f"{name}: got {section!r}, wanted a ConfigDict with the fields {', '.join(wanted)}.")
    if unknown := sorted(set(section) - set(wanted)):
        raise ValueError(f"{name}.{unknown[0]}: no such field; {name} has {', '.join(wanted)}.")
    if missing := sorted(set(wanted) - set(section)):
        raise ValueError(f"{name}.{missing[0]}: missing; {name} has {', '.join(wanted)}.")


def _one_of(name: str, value: Any, allowed):
    if value not in allowed:
        raise ValueError(f"{name}: got {value!r}, wanted one of {sorted(allowed)}.")


def _integer(name: str, value: Any, smallest: int, largest: int | None = None) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < smallest or (largest is not None and value > largest):
        limit = f">= {smallest}" if largest is None else f"from {smallest} to {largest}"
        raise ValueError(f"{name}: got {value!r}, wanted an integer {limit}.")
    return value


def _positive(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 < value < math.inf:
        raise ValueError(f"{name}: got {value!r}, wanted a number > 0.")
    return float(value)


def parse_flags(argv):
    """`app.run(..., flags_parser=parse_flags)`: absl's own, with one line instead of a stack for a field that is not there."""
    try:
        return app.parse_flags_with_usage(argv)
    except AttributeError as error:
        reason = str(error).strip("'").replace("\\n", " ")
        raise SystemExit(f"--config: the config has no field {reason}") from None


def read_config_flag(flag) -> ConfigDict:
    """The value of a `DEFINE_config_file` flag; SystemExit with the configs there are if the file cannot be loaded."""
    try:
        flag.value.to_dict()
    except OSError as error:
        folder = pathlib.Path(__file__).parent / "configs"
        known = sorted(p.stem for p in folder.glob("*.py") if "num_train" in p.read_text())
        reason = str(error).strip().splitlines()[-1].strip()
        raise SystemExit(
            f"--config: cannot load the config: {reason}\nThere are: "
            + ", ".join(f"experiments/configs/{name}.py" for name in known)
        ) from None
    return flag.value
