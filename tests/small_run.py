"""The launcher on a problem of seconds: its config, and a run that nothing disturbed (conftest.py has it as a fixture)."""

from experiments.configs import tiny

__all__ = ["get_config", "small_config"]


def small_config():
    """Two solvers, two stages of Adam, which compiles faster than Levenberg-Marquardt."""
    config = tiny.get_config()
    config.flow.image_size, config.flow.num_components = 4, 3
    config.solvers = dict(rk1=(2,), rk2=(2,))
    config.paths.update(num_train=8, num_validation=8, num_test=12)
    config.fit.choose_start = False
    adam = config.fit.stage1.to_dict() | dict(optimizer="adam", batch_size=8, chunk_size=8, validate_every=1)
    config.fit.stage1 = adam | dict(loss="rmse_bound", num_iterations=2)
    config.fit.stage2 = adam | dict(loss="endpoint", num_iterations=3)
    config.report.num_samples = 4
    return config


get_config = small_config  # so that `--config=tests/small_run.py` is a command line
