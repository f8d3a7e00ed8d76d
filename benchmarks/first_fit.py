"""What the first fit of a process costs on a small flow: the programs it compiles, and its CPU time over the second fit's.

python -m benchmarks.first_fit
"""

import resource
import warnings
from collections import Counter

import jax
import jax.numpy as jnp

import bespoke_jax as bj

_SOLVERS = {"table of 6": ("table", 6), "rk2 of 4 steps": ("rk2", 4), "times of 6": ("times", 6)}
_RECIPES = {"default": bj.Recipe(), "frugal": bj.frugal(20_000)}


def small_flow() -> bj.Flow:
    """A velocity in two dimensions from a network of one hidden layer."""
    keys = jax.random.split(jax.random.key(5), 2)
    weights = 0.5 * jax.random.normal(keys[0], (2, 64)), 0.2 * jax.random.normal(keys[1], (64, 2))
    scheduler = bj.schedulers.CondOT()
    return bj.Flow(lambda p, t, x: jnp.tanh(x @ p[0] + t) @ p[1] - x, weights, (2,), scheduler=scheduler)


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Print a line for each solver and recipe; all programs are forgotten between them."""
    compiled: Counter[str] = Counter()
    jax.monitoring.register_event_duration_secs_listener(lambda name, *_, **__: compiled.update([name]))
    warnings.simplefilter("ignore")
    flow = small_flow()
    print(f"{'recipe':8s} {'solver':16s} {'programs':>8s} {'CPU s':>6s} {'over the second fit':>20s}")
    for recipe_name, recipe in _RECIPES.items():
        for solver_name, (family, num_steps) in _SOLVERS.items():
            jax.clear_caches()
            compiled.clear()
            seconds = []
            for _ in range(2):
                before = _cpu_seconds()
                bj.fit(flow, bj.init_theta(family, num_steps), jax.random.key(0), recipe)
                seconds.append(_cpu_seconds() - before)
            programs = compiled["/jax/core/compile/backend_compile_duration"]
            print(f"{recipe_name:8s} {solver_name:16s} {programs:8d} {seconds[0]:6.1f} {seconds[0] / seconds[1]:20.1f}")


if __name__ == "__main__":
    main()
