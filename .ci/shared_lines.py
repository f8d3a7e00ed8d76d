"""The reference: arguments that share a line of a docstring get a line each, with their own types and defaults.

An extension of griffe, named in mkdocs.yml. Without it "paths, validation: ..." is one unknown argument, and so "required".
"""

import copy

import griffe


class SharedLines(griffe.Extension):
    """Splits the lines of `Args` whose names are several."""

    def on_function(self, *, func: griffe.Function, **_: object) -> None:
        """Called for each function that griffe has read."""
        if func.docstring is None:
            return
        for section in func.docstring.parsed:
            if section.kind is griffe.DocstringSectionKind.parameters:
                section.value = [each for argument in section.value for each in _apart(argument, func.parameters)]


def _apart(argument: griffe.DocstringParameter, parameters: griffe.Parameters) -> list[griffe.DocstringParameter]:
    """The arguments of a line: itself, or each of several."""
    names = argument.name.split(", ")
    if len(names) == 1 or any(name not in parameters for name in names):
        return [argument]
    found = []
    for name in names:
        one, parameter = copy.copy(argument), parameters[name]
        one.name, one.annotation, one.value = name, parameter.annotation, parameter.default
        found.append(one)
    return found
