"""The beginning of a run that learns or measures solvers: its config is checked, its flow loaded, its folder opened."""

from experiments.learning import flows, learn, settings
from experiments.run import runs

__all__ = ["prepare"]


def prepare(config, workdir):
    """(plan, flow, run) of a config. Every mistake in the user's input is an error here, before any work."""
    plan = settings.read(config)
    flow = flows.load(config.flow)
    learn.check_budget(flow, plan)
    stamp = settings.stamp(config, flows.fingerprint(flow))
    return plan, flow, runs.open_run(workdir, stamp)
