"""What pyproject.toml puts into the wheel. .ci/run builds one, looks into it, and uses it in an empty environment."""

import pathlib
import re
import tomllib

ROOT = pathlib.Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUPTOOLS = PYPROJECT["tool"]["setuptools"]
FILES = [path for path in (ROOT / "bespoke_jax").rglob("*") if path.is_file() and "__pycache__" not in path.parts]


def test_it_is_one_package():
    assert SETUPTOOLS["packages"]["find"]["include"] == ["bespoke_jax*"]
    assert [path.name for path in ROOT.glob("bespoke_jax*") if path.suffix != ".egg-info"] == ["bespoke_jax"]


def test_it_has_every_module_and_every_file_of_data():
    packages = {path.parent for path in FILES if path.name == "__init__.py"}
    data = {
        path
        for package, patterns in SETUPTOOLS["package-data"].items()
        for pattern in patterns
        for path in (ROOT / package.replace(".", "/")).glob(pattern)
    }
    assert not [path for path in FILES if not (path.parent in packages if path.suffix == ".py" else path in data)]
    assert ROOT / "bespoke_jax/py.typed" in data


def test_every_dependency_has_a_lowest_version():
    # .ci/lowest.py reads them.
    for dependency in PYPROJECT["project"]["dependencies"]:
        assert re.match(r"[\w-]+>=\d[\d.]*(,<\d[\d.]*)?$", dependency)
