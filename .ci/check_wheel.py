"""The wheel is bespoke_jax alone, the sdist all of the clone; both are small, and hold nobody else's weights.

`python .ci/check_wheel.py WHEEL SDIST`, at the root of the clone that they were built from.
"""

import email
import pathlib
import sys
import tarfile
import tomllib
import zipfile

MOST = {"wheel": 6, "sdist": 12}  # MiB
ROOTS = (".ci", "benchmarks", "bespoke_jax", "docs", "experiments", "tests")
FILES = ("CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE", "MANIFEST.in", "README.md", "SECURITY.md")
FILES += ("mkdocs.yml", "pyproject.toml")
WRITTEN = ("PKG-INFO", "setup.cfg", "bespoke_jax.egg-info/")  # by setuptools
# Weights: those of our own flows and classifier, and the tests' small random networks.
WEIGHTS = (".bin", ".ckpt", ".msgpack", ".npz", ".pkl", ".pt", ".pth", ".safetensors")
OURS = ("bespoke_jax/models/weights/", "tests/golden/")


def files(*roots):
    paths = (path for root in roots for path in pathlib.Path(root).rglob("*"))
    return {path.as_posix() for path in paths if path.is_file() and "__pycache__" not in path.parts}


def check(kind, archive, held, wanted):
    if held != wanted:
        sys.exit(f"{archive.name}: missing {sorted(wanted - held)[:5]}, too much {sorted(held - wanted)[:5]}.")
    if foreign := [name for name in held if name.endswith(WEIGHTS) and not name.startswith(OURS)]:
        sys.exit(f"{archive.name}: wanted no weights but those of {OURS}, got {sorted(foreign)[:5]}.")
    size = archive.stat().st_size / 2**20
    if size > MOST[kind]:
        sys.exit(f"{archive.name}: wanted at most {MOST[kind]} MiB, got {size:.1f}.")
    print(f"== {archive.name}: {len(held)} files, {size:.1f} MiB")


def check_metadata(text):
    project = tomllib.loads(pathlib.Path("pyproject.toml").read_text())["project"]
    found = email.message_from_string(text)
    wanted = dict(Name=project["name"], Version=project["version"], Summary=project["description"])
    wanted |= {"Requires-Python": project["requires-python"], "License-Expression": project["license"]}
    if wrong := {name: found[name] for name, value in wanted.items() if found[name] != value}:
        sys.exit(f"metadata: wanted {wanted}, got {wrong}.")
    if f"\nversion: {found['Version']}\n" not in pathlib.Path("CITATION.cff").read_text():
        sys.exit(f"CITATION.cff: wanted version {found['Version']}.")
    if f"\n## [{found['Version']}]" not in pathlib.Path("CHANGELOG.md").read_text():
        sys.exit(f"CHANGELOG.md: wanted a section [{found['Version']}].")


wheel, sdist = map(pathlib.Path, sys.argv[1:])
with zipfile.ZipFile(wheel) as archive:
    names = archive.namelist()
    check("wheel", wheel, {name for name in names if ".dist-info/" not in name}, files("bespoke_jax"))
    check_metadata(archive.read(next(name for name in names if name.endswith(".dist-info/METADATA"))).decode())
with tarfile.open(sdist) as archive:
    names = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    check("sdist", sdist, {name for name in names if not name.startswith(WRITTEN)}, files(*ROOTS) | {*FILES})
