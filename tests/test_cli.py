"""The command `bespoke`, through click's own runner, on flows in closed form from `module:function`."""

import pathlib
import re
import shlex
import sys
import traceback

import click
import jax
import numpy as np
import pytest
from click.testing import CliRunner

import bespoke_jax as bj
from bespoke_jax import cli
from bespoke_jax.cli import commands, flows
from bespoke_jax.cli.commands import bespoke
from bespoke_jax.cli.text import describe, line_of_times
from bespoke_jax.compare import yardstick
from bespoke_jax.flow.sharding import mesh_of
from tests import typechecked

ROOT = pathlib.Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "command_line.md").read_text()
MODULE = """
import bespoke_jax as bj

def make_flow():
    return bj.analytic.mixture([[-1.0, 0.5], [1.0, 0.0]], std=0.3)

def raises():
    return no_such_name

def raises_later():
    def velocity(params, t, x):
        return no_such_name + x
    return bj.Flow(velocity, None, (2,))

def nan():
    return bj.Flow(lambda params, t, x: x / (t - t), None, (2,))

def list_of():
    return [1]

def leaves():
    raise SystemExit(0)
"""
FLOW = bj.analytic.mixture([[-1.0, 0.5], [1.0, 0.0]], std=0.3)


@pytest.fixture(autouse=True)
def folder(own_modules):
    """A working directory with the module `mine_for_cli`."""
    (own_modules / "mine_for_cli.py").write_text(MODULE)
    with typechecked.uninstalled():  # whose frames would pass for the user's
        yield own_modules


def run(*arguments):
    return CliRunner().invoke(bespoke, [str(argument) for argument in arguments])


def command_lines(text):
    return re.findall(r"^ *(?:\$ )?(bespoke [a-z].*?)(?: > \S+| \| .*| && .*)?$", text, re.MULTILINE)


@pytest.mark.filterwarnings("ignore:fit. the solver is:UserWarning")  # so good that the true paths' accuracy matters
def test_the_commands_of_the_page_run_from_a_fit_to_code(folder):
    module, block = (re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL) for language in ("python", "bash"))
    (folder / "my_flow.py").write_text(module[0])
    outputs = {}
    for line in command_lines(block[1]):
        _, name, *rest = shlex.split(line)
        found = run(name, *rest)
        assert found.exit_code == 0, (line, found.output)
        outputs[name] = found.stdout
    solver = bj.load_solver("solver.json", flow=FLOW)
    assert solver.family == "table" and solver.nfe == 4 and "PSNR" in outputs["fit"]
    assert "fitted_to" in outputs["inspect"]
    assert outputs["check"].startswith("fits: ")
    assert re.search(r"NFE 4 .*\nsolver\.json +\d", outputs["evaluate"]) and "  euler" in outputs["evaluate"]
    assert (folder / "solver.py").read_text() == bj.export_code(solver, "numpy")


@pytest.mark.parametrize(
    "page", ["README.md", "SECURITY.md", *(str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("docs/**/*.md")))]
)
def test_commands_of_the_pages_have_options_that_exist(page):
    check_commands(command_lines((ROOT / page).read_text()))


@pytest.mark.parametrize("name", bespoke.commands)
def test_help_has_examples_that_exist(name):
    found = run(name, "--help")
    lines = command_lines(found.output)
    assert found.exit_code == 0 and lines and all(line.split()[1] == name for line in lines)
    check_commands(lines)


def check_commands(lines):
    for line in lines:
        _, name, *rest = shlex.split(line.replace(" ...", ""))
        command = bespoke.commands[name]
        command.make_parser(click.Context(command)).parse_args(rest)


def noise_of_gaussian(params, t, x):
    """The prediction of x0 on data N(0, 0.3^2)."""
    return (1 - t) * x / ((0.3 * t) ** 2 + (1 - t) ** 2)


def test_code_of_a_file_has_the_times_of_the_flow_it_was_saved_with(folder):
    flow = bj.Flow.from_prediction(noise_of_gaussian, None, (2,), bj.schedulers.CondOT(), "noise")
    solver, names = bj.init_theta("rk2", 2), {}
    bj.save_solver("rk2.json", solver, flow=flow)
    exec(run("export", "rk2.json", "--to", "numpy").stdout, names)
    x0 = np.asarray(flow.noise(jax.random.key(0), (3,)))
    assert names["T"][0] == np.float32(1e-3)
    np.testing.assert_allclose(
        names["sample"](lambda t, x: np.asarray(flow(np.float32(t), x)), x0), bj.solve(flow, solver, x0), rtol=1e-5
    )


def test_code_does_not_replace_the_file_that_it_is_made_of(folder):
    bj.save_solver("euler.json", bj.classic.euler(4))
    found = run("export", "euler.json", "--to", "numpy", "--out", folder / "euler.json")
    assert found.exit_code == 2 and "--out: wanted another file than euler.json" in found.output
    assert bj.load_solver("euler.json").nfe == 4


@pytest.mark.parametrize("module", ["mine_for_cli:leaves", "exits_for_cli:make_flow"])
def test_a_script_that_exits_is_no_success(folder, module):
    (folder / "exits_for_cli.py").write_text("import sys; sys.exit(0)")
    bj.save_solver("euler.json", bj.classic.euler(4))
    found = run("check", module, "euler.json")
    assert found.exit_code == 2 and "SystemExit" in found.output


def test_a_check_that_fails_has_status_1(folder):
    bj.save_solver("poor.json", bj.classic.euler(4), flow=FLOW)
    found = run("check", "mine_for_cli:make_flow", "poor.json")
    assert found.exit_code == 1 and found.output.startswith("does not fit: ")


def test_a_file_of_another_flow_is_warned_of(folder):
    bj.save_solver("other.json", bj.classic.euler(2), flow=bj.analytic.gaussian([3.0, 1.0], 0.2))
    with pytest.warns(UserWarning, match="learned for another flow"):
        run("check", "mine_for_cli:make_flow", "other.json", "--noises", 2)


WRONG = {
    "no flow": (["fit", "nonsense", "--nfe", 4, "--out", "s.json"], r"FLOW: wanted one of fashion_fmot, .*'nonsense'"),
    "no module": (["fit", "no_such:f", "--nfe", 4, "--out", "s.json"], r"No module named 'no_such'"),
    "no file": (["fit", "none.safetensors", "--nfe", 4, "--out", "s.json"], r"no file none\.safetensors"),
    "no Flow": (["fit", "mine_for_cli:list_of", "--nfe", 4, "--out", "s.json"], r"FLOW: wanted .* got list\."),
    "labels": (["fit", "fashion_fmot", "--labels", "x", "--nfe", 4, "--out", "s.json"], r"--labels: wanted a class"),
    "own labels": (
        ["fit", "mine_for_cli:make_flow", "--labels", "all", "--nfe", 4, "--out", "s.json"],
        r"--labels: wanted a flow from a file",
    ),
    "neither": (["fit", "mine_for_cli:make_flow", "--out", "s.json"], r"wanted either --nfe or --steps"),
    "both": (["fit", "mine_for_cli:make_flow", "--nfe", 4, "--steps", 2, "--out", "s.json"], r"wanted either --nfe"),
    "odd": (
        ["fit", "mine_for_cli:make_flow", "--nfe", 3, "--family", "rk2", "--out", "s.json"],
        r"--nfe: wanted a multiple of 2 for rk2, got 3",
    ),
    "budget": (
        ["fit", "mine_for_cli:make_flow", "--nfe", 4, "--budget", 10, "--out", "s.json"],
        r"budget: wanted at least \d+ for a solver of 4 evaluations, got 10",
    ),
    "folder": (["fit", "mine_for_cli:make_flow", "--nfe", 4, "--out", "no/s.json"], r"there is no folder no"),
    "family": (["fit", "mine_for_cli:make_flow", "--nfe", 4, "--family", "rk9", "--out", "s.json"], r"'rk9' is not"),
    "not finite": (["fit", "mine_for_cli:nan", "--nfe", 4, "--budget", 5000, "--out", "s.json"], r"(?i)not finite|nan"),
    "no solver": (["evaluate", "mine_for_cli:make_flow"], r"Missing argument 'SOLVERS\.\.\.'"),
    "no solver file": (["inspect", "none.json"], r"'none\.json' does not exist"),
    "another file": (["inspect", "mine_for_cli.py"], r"mine_for_cli\.py: "),
    "another language": (["export", "euler.json", "--to", "c"], r"'c' is not one of 'numpy'"),
    "another scheduler": (["export", "euler.json", "--to", "jax", "--scheduler", "x"], r"scheduler: wanted .*'x'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_mistakes_are_told_in_a_line(case):
    bj.save_solver("euler.json", bj.classic.euler(4))
    arguments, message = WRONG[case]
    found = run(*arguments)
    assert found.exit_code == 2 and re.search(message, found.stderr) and not found.stdout
    assert "Traceback" not in found.stderr and "bespoke_jax/" not in found.stderr
    assert not pathlib.Path("s.json").exists()


@pytest.mark.parametrize("name", ["raises", "raises_later"])
def test_the_users_own_code_shows_its_own_traceback(name):
    found = run("fit", f"mine_for_cli:{name}", "--nfe", 2, "--out", "s.json")
    assert found.exit_code == 2 and re.search(r"(?s)Traceback.*mine_for_cli\.py.*no_such_name.*NameError", found.stderr)
    assert str(ROOT / "bespoke_jax") not in found.stderr


def test_traceback_shows_all():
    found = run("--traceback", "fit", "nonsense", "--nfe", 2, "--out", "s.json")
    frames = traceback.extract_tb(found.exc_info[2])
    assert isinstance(found.exception, ValueError) and frames[-1].filename == flows.__file__


def test_faults_of_ours_keep_their_traceback(monkeypatch):
    ours = {"__name__": "bespoke_jax.cli.fault"}  # as if the library's own code raised
    exec("def describe(*_):\n    assert False", ours)
    monkeypatch.setattr(commands, "describe", ours["describe"])
    bj.save_solver("euler.json", bj.classic.euler(4))
    assert isinstance(run("inspect", "euler.json").exception, AssertionError)


def test_versions_are_told():
    found = run("--version")
    assert found.exit_code == 0 and re.search(rf"^jax {re.escape(jax.__version__)}$", found.output, re.MULTILINE)


def test_without_click_the_command_says_what_to_install(monkeypatch, capsys):
    for name in ("commands", "errors"):
        monkeypatch.delitem(sys.modules, f"bespoke_jax.cli.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "click", None)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2 and "pip install 'bespoke-jax[cli]'" in capsys.readouterr().err


def test_flows_of_files_have_classes_and_guidance():
    wanted = bj.models.load_flow("fashion_fmot_class", labels=[0, 2])
    plain, guided = (flows.find_flow("fashion_fmot_class", "0,2", scale) for scale in (0.0, 1.5))
    jax.tree.map(np.testing.assert_array_equal, plain.params, wanted.params)
    assert (plain.calls_per_evaluation, guided.calls_per_evaluation) == (1, 2)
    jax.tree.map(np.testing.assert_array_equal, guided.params, bj.guided(wanted, 1.5).params)


def test_flows_lie_on_all_devices_unless_they_have_a_place(folder):
    (folder / "placed_for_cli.py").write_text(PLACED)
    assert mesh_of(flows.find_flow("fashion_fmot")).size == jax.device_count() > 2
    assert mesh_of(flows.find_flow("placed_for_cli:on_two")).size == 2
    assert mesh_of(flows.find_flow("placed_for_cli:elsewhere")) is None
    assert mesh_of(flows.find_flow("mine_for_cli:make_flow")) is None, "too small to gain"


PLACED = """
import jax
import bespoke_jax as bj

def velocity(params, t, x):
    return params - x

def elsewhere():
    outside = lambda params, t, x: params - x
    outside.outside_jax = True
    return bj.Flow(outside, jax.numpy.ones(2**16), (2,))

def on_two():
    return bj.sharding.replicate(bj.Flow(velocity, jax.numpy.ones(2), (2,)), jax.devices()[:2])
"""
GENERAL = bj.SolverTable(
    *(np.float32(values) for values in ([0.0, 0.25, 0.25, 1.0], np.ones(4), np.tril(np.full((4, 4), 0.25)))),
    first=np.float32(0.5),
    c=np.zeros(5, np.float32),
    xi=np.ones(2, np.float32),
    fields=(0, 1, 0, 0),
)


def test_a_solver_file_is_described(folder):
    bj.save_solver("general.json", GENERAL, info={"note": "x" * 100})
    text = describe("general.json")
    assert (
        "4 of one network each: 3 conditional, 1 unconditional" in text
        and "image   xi, (2,): where the flow points from" in text
    )
    assert "state 0 = 0.5 x0 +0 xi" in text and "(100 characters)" in text and "does not say for which" in text
    assert "x" * 100 in describe("general.json", all_numbers=True)
    bj.save_solver("long.json", bj.classic.euler(20), flow=FLOW)
    rows = [line for line in describe("long.json").splitlines() if re.match(r" +19 ", line)]
    assert rows[0].count("0.0500") == 6 and "event shape (2,)" in describe("long.json")
    everything = [line for line in describe("long.json", True).splitlines() if re.match(r" +19 ", line)]
    assert everything[0].count("0.0500") == 20


def test_every_time_has_its_place_on_the_line():
    random = np.random.default_rng(0)
    times = random.uniform(size=9)
    line = line_of_times(times, 40)
    counted = [9 if mark == "+" else int(mark.replace("o", "1").replace("-", "0")) for mark in line[3:-3]]
    assert sum(counted) == 9 and len(counted) == 40
    np.testing.assert_array_equal(np.flatnonzero(counted), np.unique(np.rint(times * 39)))
    assert "+" in line_of_times(np.full(10, 0.5))


def test_the_first_noises_of_a_yardstick_are_scored_as_in_the_whole():
    ruler = yardstick(FLOW, jax.random.key(3), 8)
    solver, few = bj.classic.heun(4), ruler.first(3)
    errors_of = bj.metrics.rmse(bj.solve(FLOW, solver, ruler.x0), ruler.x1, 1)
    assert len(few.x0) == 3
    np.testing.assert_allclose(few.score("heun", solver).rmse, np.mean(errors_of[:3]), rtol=1e-4)
