"""A solver file as code in another language.

`python -m experiments.export solver.json --to torch > solver.py`. For a pipeline of diffusers give the scheduler_config.json of
its network, and the scheduler of the flow that the solver was fitted to if it is another than the nearest to that config:
`python -m experiments.export solver.json --to diffusers --network scheduler_config.json --scheduler vp`.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import bespoke_jax as bj
from bespoke_jax.files.atomic import check_target, write_whole
from bespoke_jax.files.export_code import LANGUAGES, export_code
from bespoke_jax.models.diffusers.noise import preconditioning_of


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m experiments.export", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("solver", help="a file of save_solver")
    parser.add_argument("--to", choices=LANGUAGES, required=True)
    parser.add_argument("--out", help="the file to write; the standard output if not given")
    parser.add_argument("--network", help="for diffusers: the scheduler_config.json of the network")
    parser.add_argument("--scheduler", help="the flow's scheduler: condot, cosine, vp or edm")
    given = parser.parse_args(arguments)
    try:
        scheduler = None if given.scheduler is None else bj.schedulers.by_name(given.scheduler)
        options: dict[str, Any] = dict(scheduler=scheduler)
        if given.network is not None:
            options |= _of_network(pathlib.Path(given.network), scheduler)
        text = export_code(bj.load_solver(given.solver), given.to, **options)
        if given.out is None:
            sys.stdout.write(text)
        else:
            write_whole(check_target(given.out), text.encode())
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _of_network(path: pathlib.Path, scheduler: bj.schedulers.Scheduler | None) -> dict[str, Any]:
    """The arguments of `export_code` that a scheduler_config.json of diffusers says."""
    found, nearest = preconditioning_of(path)
    if found.kind == "flow":
        return dict(scheduler=nearest if scheduler is None else scheduler)
    if found.kind != "ddpm":
        raise ValueError(
            f"{path}: wanted a network trained on steps or by flow matching, got one of kind {found.kind!r}."
        )
    chosen = nearest if scheduler is None else scheduler
    return dict(scheduler=chosen, prediction=found.prediction, betas=list(found.betas))


if __name__ == "__main__":
    sys.exit(main())
