"""Prints constraints for pip: the lowest version of each dependency that pyproject.toml allows."""

import pathlib
import re
import tomllib

project = tomllib.loads(pathlib.Path("pyproject.toml").read_text())["project"]
for dependency in project["dependencies"]:
    name, version = re.match(r"([\w-]+)>=([\w.]+)", dependency).groups()
    print(f"{name}=={version}")
