"""What a user mistypes, or what his own config does, is one line and a status, and never a stack."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]

# Every line by a fork of one process: importing JAX takes longer than all of them. multiprocessing ends a fork as the interpreter
# would, what SystemExit says and its status included, but does not take down all that was imported, for a second each.
EACH = """
import json, multiprocessing, os, sys
from experiments.run import command_line
from experiments import train

def line(number, arguments):
    out = os.open(f"{sys.argv[2]}/{number}", os.O_WRONLY | os.O_CREAT)
    os.dup2(out, 1), os.dup2(out, 2)
    sys.argv[1:] = arguments
    command_line.run(train.main, "tiny")

for number, arguments in enumerate(json.loads(sys.argv[1])):
    process = multiprocessing.get_context("fork").Process(target=line, args=(number, arguments))
    process.start(), process.join()
    open(f"{sys.argv[2]}/{number}.status", "w").write(str(process.exitcode))
"""

TINY = "from experiments.configs import tiny\n\n\ndef get_config():\n    config = tiny.get_config()\n"
CONFIGS = {
    "dict": ("def get_config():\n    return dict(seed=0)\n", "--config: wanted a ConfigDict from get_config, got dict"),
    "none": ("def get_config():\n    pass\n", "--config: wanted a ConfigDict from get_config, got NoneType"),
    "syntax": (
        "x = 1\ndef get_config(:\n    pass\n",
        "syntax.py, line 2: def get_config(:: SyntaxError: invalid syntax",
    ),
    "nothing": ("x = 1\n", "--config: wanted a Python file with a function get_config()"),
    "number": ("get_config = 3\n", "--config: wanted a Python file with a function get_config()"),
    "wants": ("def get_config(a):\n    pass\n", "get_config() missing 1 required positional argument: 'a'"),
    "frozen": (
        "import ml_collections\n" + TINY + "    return ml_collections.FrozenConfigDict(config)\n",
        "returns a ConfigDict",
    ),
    "raises": (
        "def helper():\n    return [1][3]\n\ndef get_config():\n    return helper()\n",
        "raises.py, line 2: return [1][3]: IndexError: list index out of range",
    ),
    "type": (
        "def get_config():\n    return 1 + ''\n",
        "type.py, line 2: return 1 + '': TypeError: unsupported operand",
    ),
    "value": ("raise ValueError('mine')\n", "value.py, line 1: raise ValueError('mine'): ValueError: mine"),
    "key": ("def get_config():\n    return {}['a']\n", "key.py, line 2: return {}['a']: KeyError: 'a'"),
    "imports": ("import no_such_module\n", "imports.py, line 1: import no_such_module: ModuleNotFoundError: No module"),
    "attribute": (
        TINY + "    config.fit.stage7.loss = 3\n",
        "attribute.py, line 6: config.fit.stage7.loss = 3: AttributeError",
    ),
    "field": (
        TINY + "    config.lossy = 3\n    return config\n",
        "config.lossy: no such field; config has workdir, seed, ",
    ),
    "workdir": (TINY + "    del config.workdir\n    return config\n", "config.workdir: missing"),
}
LINES = [
    (["--config.fit.stage1.los=rmse"], "no such field: 'los' Did you mean \"loss\""),
    (["--config.seed=abc"], "flag --config.seed=abc: invalid literal"),
    (["--config.seed=1.5"], "flag --config.seed=1.5: invalid literal"),
    ([f"--config.seed={2**70}"], f"config.seed: wanted an integer from 0 to 4294967295, got {2**70}."),
    (["--config.seed=-1"], "config.seed: wanted an integer from 0 to 4294967295, got -1."),
    (["--config.fit.budget=0.5"], "flag --config.fit.budget=0.5: invalid literal"),
    (["--config.paths.rtol=-1e-3"], "config.paths.rtol: wanted a finite number > 0, got -0.001."),
    (
        ["--config.fit.stage1.learning_rate=nan"],
        "config.fit.stage1.learning_rate: wanted a finite number > 0, got nan.",
    ),
    (
        ["--config.solver.base=times", "--config.solver.num_steps=1"],
        "config.solvers.times: num_steps: wanted an integer >= 2",
    ),
    (["--config.solver.num_steps=100000"], "config.solver.num_steps: wanted an integer from 0 to 1000, got 100000."),
    (["--config.fit=3"], "flag --config.fit=3: Failed to parse '3' as a ConfigDict"),
    (["--nosuch"], "Unknown command line flag 'nosuch'"),
    (["rest"], "'rest': not understood"),
    (["--workdir="], "workdir: wanted the name of a folder, got ''"),
    (["--workdir={folder}/file"], "workdir: wanted a folder, got the file {folder}/file; give another --workdir."),
    (["--workdir={folder}/file/run"], "workdir: {folder}/file/run cannot be used (["),
    (["--workdir=~nobodyhere/run"], "workdir: wanted the name of a folder, got '~nobodyhere/run'"),
]
LONGER = [  # a list or a remedy follows
    (["--config=experiments/configs/nothing.py"], "There are\n"),
    (["--config=experiments/configs/cifar10_fmot.py"], "config.flow.path is empty"),
]


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """What each command line printed, and its status."""
    folder = tmp_path_factory.mktemp("lines")
    (folder / "file").touch()
    lines = []
    for name, (source, _) in CONFIGS.items():
        (folder / f"{name}.py").write_text(source)
        lines.append([f"--config={folder}/{name}.py", f"--workdir={folder}/run"])
    lines += [
        [f"--workdir={folder}/run", *(a.format(folder=folder) for a in arguments)] for arguments, _ in LINES + LONGER
    ]
    command = [sys.executable, "-c", EACH, json.dumps(lines), str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, env=os.environ | {"PYTHONWARNINGS": "ignore"})
    assert not (folder / "run").exists()  # all of it is said before any work
    found = [((folder / f"{i}").read_text(), (folder / f"{i}.status").read_text()) for i in range(len(lines))]
    return folder, dict(zip([*CONFIGS, *map(str, range(len(LINES + LONGER)))], found, strict=True))


def assert_is_one_line(text, status, wanted):
    # absl logs that get_config returned None; what it logs is not ours.
    lines = [line for line in text.splitlines() if line and not line.startswith(("W1", "W0", "WARNING: Logging"))]
    assert len(lines) == 1 and wanted in lines[0] and status == "1", text


@pytest.mark.parametrize("name", CONFIGS)
def test_configs_that_are_none(said, name):
    assert_is_one_line(*said[1][name], CONFIGS[name][1])


@pytest.mark.parametrize("number", range(len(LINES)), ids=lambda i: " ".join(LINES[i][0])[:50])
def test_arguments(said, number):
    assert_is_one_line(*said[1][str(number)], LINES[number][1].format(folder=said[0]))


@pytest.mark.parametrize("number", range(len(LONGER)), ids=lambda i: LONGER[i][0][0])
def test_what_takes_more_than_a_line(said, number):
    text, status = said[1][str(len(LINES) + number)]
    assert status == "1" and LONGER[number][1] in text and "Traceback" not in text
