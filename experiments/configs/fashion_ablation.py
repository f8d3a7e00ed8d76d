"""The ablation of the paper's App. K.1 on the shipped flow, for `experiments.ablate`: losses, optimisers, time or scale alone.

All fits begin at the base solver and spend about the same number of velocity evaluations. A suffix selects fits by name:
`fashion_ablation.py:endpoint-lm,rmse-lm`. Cost and table: docs/ablation.md.
"""

from experiments.configs import fashion_fmot_long
from experiments.run.config import ConfigDict

# Evaluations per path and step: 3 of Adam, 5 of Levenberg-Marquardt on ends, 14 on single steps.
_ADAM = dict(optimizer="adam", batch_size=16, num_iterations=64, validate_every=16)
_LM = dict(optimizer="lm", validate_every=9)
_FITS = {
    **{f"{loss}-adam": dict(loss=loss, **_ADAM) for loss in ("rmse_bound", "local", "rmse", "endpoint")},
    **{f"{loss}-lm": dict(loss=loss, batch_size=8, num_iterations=27, **_LM) for loss in ("rmse_bound", "local")},
    **{f"{loss}-lm": dict(loss=loss, batch_size=16, num_iterations=36, **_LM) for loss in ("rmse", "endpoint")},
}
_PARTS = ("rmse_bound-adam", "endpoint-lm")  # learned with time or scale alone, too


def get_config(names: str = "") -> ConfigDict:
    config = fashion_fmot_long.get_config()
    config.workdir = "runs/fashion_ablation"
    config.solvers = dict(rk2=(5,))
    config.paths.update(num_train=96, num_validation=48, num_test=128)
    usual = config.fit.stage1.to_dict()

    def fit(name, learned="both"):
        return dict(learned=learned, choose_start=False, budget=0, stage1=usual | _FITS[name])

    fits = {name: fit(name) for name in _FITS}
    fits |= {f"{name}-{learned}": fit(name, learned) for name in _PARTS for learned in ("time", "scale")}
    if unknown := set(filter(None, names.split(","))) - set(fits):
        raise SystemExit(f"--config: no fit named {min(unknown)!r}; there are {', '.join(fits)}.")
    if names:
        fits = {name: fits[name] for name in names.split(",") if name}
    with config.unlocked():
        del config.fit
        config.fits = ConfigDict(fits)
    return config
