"""Two processes with a device each are one process with two devices: real ones, that meet on the loopback interface."""

import csv
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

import bespoke_jax as bj
from experiments.run import processes
from tests import quick

ROOT = pathlib.Path(__file__).parents[1]


class TestOne:
    def test_alone_it_is_the_first(self):
        processes.start()
        assert processes.is_first() and processes.all_of(True) and not processes.all_of(False)
        assert processes.from_first(lambda: 3) == 3

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            (dict(num_processes=2), "--coordinator_address: missing"),
            (dict(coordinator_address="127.0.0.1:1", process_id=0), "--num_processes: missing"),
            (
                dict(coordinator_address="127.0.0.1:1", num_processes=2, process_id=2),
                "--process_id: wanted 0 to 1, one below --num_processes, got 2",
            ),
        ],
    )
    def test_half_of_the_flags(self, given, message):
        with pytest.raises(ValueError, match=message):
            processes.start(**given)


def environment(num_devices):
    """Of a process with so many devices. What is compiled here is small: less effort there saves a third of the time."""
    return os.environ | dict(
        XLA_FLAGS=quick.with_flags(f"--xla_force_host_platform_device_count={num_devices}"),
        JAX_DISABLE_MOST_OPTIMIZATIONS="1",
    )


def both(arguments, folder, act=lambda two: None):
    """Run a command as two processes, `act` on them, and return their exit statuses and what they said."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    two, logs = [], [folder / f"log{number}" for number in range(2)]
    try:
        for number, path in enumerate(logs):
            flags = [f"--coordinator_address={address}", "--num_processes=2", f"--process_id={number}"]
            with open(path, "w") as log:
                command = [sys.executable, *arguments, *flags]
                two.append(subprocess.Popen(command, cwd=ROOT, env=environment(1), stdout=log, stderr=log))
        act(two)
        codes = [process.wait() for process in two]
    finally:
        for process in two:
            process.kill()
    return codes, [path.read_text() for path in logs]


API = """
import sys
from absl import flags
from experiments.run import command_line, processes
import jax, numpy as np, bespoke_jax as bj
flags.DEFINE_string("out", None, "")
def main(config, workdir):
    flow = bj.sharding.replicate(bj.analytic.mixture([[-1.0, 0.0], [1.0, 0.5], [0.0, -1.0]], 0.3))
    key, stages = jax.random.key(0), (bj.Stage("rmse_bound", 1, batch_size=16), bj.Stage("endpoint", 2, batch_size=16))
    result = bj.fit(flow, bj.init_theta("rk1", 3), key, bj.Recipe(stages=stages, num_paths=16, num_validation=7))
    samples = bj.sharding.gather(flow, bj.sample(flow, result.theta, key, num_samples=6))
    rmse = [record["rmse"] for record in result.history]
    np.savez(f"{flags.FLAGS.out}{jax.process_index()}", raw=result.theta.raw, rmse=rmse, cost=result.cost, samples=samples)
command_line.run(main, "tiny")
"""


@pytest.mark.slow
def test_the_library(tmp_path):
    codes, said = both(["-c", API, f"--out={tmp_path}/two"], tmp_path)
    assert codes == [0, 0], said
    subprocess.run([sys.executable, "-c", API, f"--out={tmp_path}/one"], cwd=ROOT, env=environment(2), check=True)
    first, second, one = (dict(np.load(tmp_path / f"{name}.npz")) for name in ("two0", "two1", "one0"))
    for name, value in one.items():
        np.testing.assert_array_equal(first[name], second[name])
        np.testing.assert_allclose(first[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_launcher(tmp_path):
    """Both end with status 75 if one gets SIGTERM; started again, with the results of one process; a second pair is refused."""
    arguments = ["-m", "experiments.train", "--config=tests/small_run.py", "--config.fit.stage2.optimizer=lm"]
    one, two = tmp_path / "one", tmp_path / "two"
    subprocess.run([sys.executable, *arguments, f"--workdir={one}"], cwd=ROOT, env=environment(2), check=True)
    refused = []

    def interrupt(pair):
        while not (two / "checkpoints" / "rk1-bespoke-n2" / "2").exists() and pair[0].poll() is None:
            time.sleep(0.1)
        pair[1].send_signal(signal.SIGTERM)

    codes, said = both([*arguments, f"--workdir={two}"], tmp_path, interrupt)
    assert codes == [75, 75] and "The same command continues" in said[0], said
    assert not (two / "solvers").exists()

    def start_a_second_pair(pair):
        while f"process {pair[0].pid} on" not in (two / "lock").read_text() and pair[0].poll() is None:
            time.sleep(0.1)
        (tmp_path / "second").mkdir()
        refused.append(both([*arguments, f"--workdir={two}"], tmp_path / "second"))

    codes, said = both([*arguments, f"--workdir={two}"], tmp_path, start_a_second_pair)
    assert codes == [0, 0], said
    (codes, second_said) = refused[0]
    assert codes == [1, 1] and all("another run works in it" in text for text in second_said), second_said
    assert (two / "results.csv").read_bytes() == (one / "results.csv").read_bytes()
    for path in (one / "solvers").iterdir():
        there, here = (bj.load_solver(folder / "solvers" / path.name) for folder in (one, two))
        np.testing.assert_allclose(there.raw, here.raw, atol=1e-5)
    assert "true paths:" in said[0] and "true paths:" not in said[1]  # one of them shows progress


@pytest.mark.slow
def test_distances_of_samples(tmp_path):
    """`experiments.fid` on a shipped flow: each process draws its own samples, the first writes what one process finds."""
    only_one = ["--config.solvers.rk1=()", "--config.solvers.rk2=()", "--config.solvers.table=(8,)"]
    config = "--config=experiments/configs/fashion_fmot.py"
    arguments = ["-m", "experiments.fid", config, "--features=fashion_classifier", "--num_samples=96", *only_one]
    one, two = tmp_path / "one", tmp_path / "two"
    subprocess.run([sys.executable, *arguments, f"--workdir={one}"], cwd=ROOT, env=environment(2), check=True)
    codes, said = both([*arguments, f"--workdir={two}"], tmp_path)
    assert codes == [0, 0], said
    rows = [csv.DictReader((folder / "classifier_distance.csv").read_text().splitlines()) for folder in (one, two)]
    (there,), (here,) = rows
    distances = [float(row.pop("classifier_distance")) for row in (there, here)]
    np.testing.assert_allclose(*distances, rtol=1e-4)
    assert there == here and there["num_samples"] == "96" and distances[0] > 0
    assert "classifier distance" in said[0] and "classifier distance" not in said[1]
