"""The console command `bespoke`: fit, evaluate, check, inspect and export solvers without writing Python.

`main` is the entry point. The command needs click, and a fit tqdm: `pip install 'bespoke-jax[cli]'`.
"""

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line and exit: 0, 1 for a check that fails, 2 for an error."""
    try:
        from bespoke_jax.cli.commands import bespoke
        from bespoke_jax.cli.errors import show_warnings_in_one_line
        from bespoke_jax.flow.sharding import use_all_cores
    except ModuleNotFoundError as error:
        if error.name != "click":
            raise
        print(
            "bespoke: wanted click, which is not installed: pip install 'bespoke-jax[cli]', or pip install click tqdm.",
            file=sys.stderr,
        )
        sys.exit(2)
    show_warnings_in_one_line()
    use_all_cores()
    bespoke(prog_name="bespoke")
