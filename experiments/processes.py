"""The processes of a run. All of them run the same program on the same numbers; the first one alone writes and talks.

Without `start` there is one process, the first, and nothing here costs anything.
"""

import sys

import jax
import tqdm

__all__ = ["bar", "is_first", "say"]


def is_first() -> bool:
    """Whether this is the process that writes reports, tables and progress."""
    return jax.process_index() == 0


def bar(items=None, **options) -> tqdm.tqdm:
    """A progress bar of the first process."""
    return tqdm.tqdm(items, disable=not is_first(), **options)


def say(text: str):
    """A line from the first process, above whatever bar there is."""
    if is_first():
        tqdm.tqdm.write(text, file=sys.stderr)
