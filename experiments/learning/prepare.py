"""The beginning of a run that learns or measures solvers: its config is checked, its flow loaded, its folder opened."""

import bespoke_jax as bj
from bespoke_jax.types import PathLike
from experiments.learning import flows, learn, own_flow, settings
from experiments.run import runs
from experiments.run.config import ConfigDict

__all__ = ["open_for", "prepare"]


def prepare(config: ConfigDict, workdir: PathLike) -> tuple[settings.Plan, bj.Flow, runs.Run]:
    """(plan, flow, run) of a config. Every mistake in the user's input is an error here, before any work."""
    plan = settings.read(config)
    flow = flows.load(config.flow)
    learn.check_jobs(flow, plan)
    return plan, flow, open_for(config, flow, workdir)


def open_for(config: ConfigDict, flow: bj.Flow, workdir: PathLike) -> runs.Run:
    """The run of a config with this flow in the folder `workdir`. Raises ValueError if there is another run in it."""
    run = runs.open_run(workdir, settings.stamp(config, flows.fingerprint(flow)))
    if config.flow.name == flows.OWN:
        try:
            own_flow.check_same(flow, run)
        except ValueError:
            run.close()
            raise
    return run
