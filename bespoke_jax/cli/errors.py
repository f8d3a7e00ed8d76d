"""Errors of the user in one line; of the user's own code with its traceback; warnings in one line."""

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import click

from bespoke_jax.models.own_code import own_traceback

__all__ = ["ERROR", "Group", "one_line", "show_warnings_in_one_line"]

ERROR = 2
"""The exit status of errors, of usage and of everything else; 1 is that of a check which fails."""

_EXPECTED = (ValueError, TypeError, OSError, ArithmeticError, RuntimeError, ImportError)


class _Told(click.ClickException):
    exit_code = ERROR


class Group(click.Group):
    """A group of commands whose errors are told by `one_line`, unless the option --traceback is given."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with contextlib.nullcontext() if ctx.params.get("traceback") else one_line():
            return super().invoke(ctx)


@contextlib.contextmanager
def one_line() -> Iterator[None]:
    """Turn the errors that the library raises into a message of click's, with the traceback if the user's code raised them."""
    try:
        yield
    except (click.ClickException, click.exceptions.Exit, click.Abort):
        raise
    except Exception as error:
        own = own_traceback(error)
        if not own and not isinstance(error, _EXPECTED):
            raise
        raise _Told(f"in your own code.\n\n{own}" if own else str(error) or type(error).__name__) from None


def show_warnings_in_one_line() -> None:
    """Let the process print warnings without the place in the code, which says nothing to who has not written it."""
    warnings.formatwarning = lambda message, category, *_, **__: f"Warning: {message}\n"
