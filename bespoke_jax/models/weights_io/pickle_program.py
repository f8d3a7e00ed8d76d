"""The cost of a pickle, found by reading its program without running it."""

import io
import pickletools
from typing import Any

from bespoke_jax.models.weights_io.contents import Refused

__all__ = ["check_program"]

_DEEPEST = 100  # tuples in tuples
_FREE, _ITEMS_A_STEP = 100_000, 100  # items of tuples that a program may make: so many, and so many more for each step


def check_program(file: io.BytesIO | io.BufferedReader) -> None:
    """Raise Refused if the pickle that begins here would take more memory or time than its length justifies.

    A few bytes can name a place in the memo that makes it fill all memory, or build a tuple of tuples that has 2^50 items when it
    is hashed. This simulates the stack, recording only the depth of each tuple and the total number of its items.

    Examples:
        >>> import io, pickle
        >>> check_program(io.BytesIO(pickle.dumps({"weight": (1, 2)})))
        >>> check_program(io.BytesIO(b"Nr\\xff\\xff\\xff\\x7f."))
        Traceback (most recent call last):
        bespoke_jax.models.weights_io.contents.Refused: it numbers what it keeps up to 2147483647 in a program of 2 steps
    """
    plain = (0, 1)  # depth as a tuple, items in total
    stack: list[Any] = []
    memo: dict[Any, Any] = {}
    spent = 0
    for count, (code, argument, _) in enumerate(pickletools.genops(file), start=1):
        before, after = code.stack_before, code.stack_after
        if code.name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            place = len(memo) if argument is None else int(argument)
            if place > count:
                raise Refused(f"it numbers what it keeps up to {place} in a program of {count} steps")
            memo[place] = stack[-1]
        elif code.name in ("GET", "BINGET", "LONG_BINGET", "DUP"):
            stack.append(stack[-1] if argument is None else memo[argument])
            spent += stack[-1][1]
        elif code.name == "LONG4":
            raise Refused("it has an integer of more than 255 bytes")
        elif code.name in ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"):
            items = _taken_from(stack, before)
            stack.append((1 + max((depth for depth, _ in items), default=0), 1 + sum(size for _, size in items)))
            spent += stack[-1][1]
            if stack[-1][0] > _DEEPEST:
                raise Refused(f"it has tuples in tuples, more than {_DEEPEST} deep")
        elif code.name in ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD"):
            _taken_from(stack, before[1:])  # the container itself stays on the stack
        elif code.name == "POP":
            stack.pop()
        else:
            _taken_from(stack, before)
            stack.extend(None if item is pickletools.markobject else plain for item in after)
        if spent > _FREE + _ITEMS_A_STEP * count:
            raise Refused(f"it has tuples of {spent} items all told, after {count} steps")


def _taken_from(stack: list, before: list) -> list:
    """Pop what a step that expects `before` takes from the simulated stack; with a mark, return only what was above it."""
    if pickletools.markobject not in before:
        taken = stack[len(stack) - len(before) :]
        del stack[len(stack) - len(before) :]
        return taken
    mark = len(stack) - 1 - stack[::-1].index(None)
    taken = stack[mark + 1 :]
    del stack[mark - before.index(pickletools.markobject) :]
    return taken
