"""Warnings that point at the caller's own code."""

import os
import sys
import warnings

__all__ = ["warn"]

_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep


def warn(message: str) -> None:
    """Issue a UserWarning at the innermost frame outside this package.

    One check serves `ground_truth`, `fit` and `check_solver`, at different depths of the stack: a fixed `stacklevel` would point
    at a line of this library. (Python 3.12 has `skip_file_prefixes` for this.)

    Examples:
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     warn("atol: wanted less.")
        >>> caught[0].category.__name__, str(caught[0].message), caught[0].filename.startswith(_PACKAGE)
        ('UserWarning', 'atol: wanted less.', False)
    """
    frame, level = sys._getframe(1), 2
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, UserWarning, stacklevel=level)
