"""The command line of a launcher: --config, --config.field, --workdir. A mistyped argument is one line, not a stack."""

import contextlib
import os
import pathlib
from collections.abc import Callable

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from experiments import processes, stopping
from experiments.errors import ReadError, WriteError

__all__ = ["run", "use_all_cores", "without_stack"]

_CONFIGS = pathlib.Path(__file__).parent / "configs"


def run(main: Callable[[ConfigDict, str], int | None], default: str):
    """Parse the command line, call `main(config, workdir)`, and exit with what it returns.

    Args:
        main: the launcher.
        default: name of the config in `configs/` that is used without --config.
    """
    try:
        config = config_flags.DEFINE_config_file("config", str(_CONFIGS / f"{default}.py"), "What to do.")
    except (AttributeError, KeyError) as error:  # overrides of the default config are looked at here already
        raise SystemExit(_no_such_field(error)) from None
    workdir = flags.DEFINE_string("workdir", None, "Where everything goes; config.workdir if not given.")

    address = flags.DEFINE_string("coordinator_address", None, "Of several processes: host:port of the first one.")
    num_processes = flags.DEFINE_integer("num_processes", None, "How many there are. TPU pods and Slurm know.")
    process_id = flags.DEFINE_integer("process_id", None, "Which one this is, from 0.")

    def start(_):
        use_all_cores()
        try:
            processes.start(address.value, num_processes.value, process_id.value)
        except ValueError as error:
            raise SystemExit(str(error)) from None
        loaded = _loaded(config)
        try:
            with stopping.listening():
                return main(loaded, workdir.value or loaded.workdir)
        except (ReadError, WriteError) as error:
            raise SystemExit(str(error)) from None
        except KeyboardInterrupt:
            raise SystemExit("\nInterrupted. The same command goes on from the last checkpoint.") from None

    app.run(start, flags_parser=_parse)


@contextlib.contextmanager
def without_stack(*errors: type[Exception]):
    """What is wrong with the user's input, and these errors, end the program with their message alone."""
    try:
        yield
    except (ValueError, FileNotFoundError, *errors) as error:
        raise SystemExit(str(error)) from None


def use_all_cores():
    """Without an accelerator: a JAX device for each core, up to eight. XLA alone keeps little more than one busy."""
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", min(len(os.sched_getaffinity(0)), 8))
        # One program at a time: one that waits for the others of a sum can hold the thread that they need (seen once, XLA
        # aborts after 40 seconds).
        jax.config.update("jax_cpu_enable_async_dispatch", False)


def _parse(argv):
    try:
        rest = app.parse_flags_with_usage(argv)
    except (AttributeError, KeyError) as error:
        raise SystemExit(_no_such_field(error)) from None
    if len(rest) > 1:
        raise SystemExit(f"{rest[1]!r}: not understood; every argument begins with --config or --workdir.")
    if flags.FLAGS["verbosity"].using_default_value:
        logging.set_verbosity(logging.WARNING)  # Orbax tells of each of its steps
    return rest


def _no_such_field(error):
    return "--config: no such field: " + str(error).strip("\"'").replace("\\'", "'").replace("\\n", " ")


def _loaded(flag) -> ConfigDict:
    try:
        flag.value.to_dict()
    except OSError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        known = "\n".join(f"  {path}" for path in sorted(_CONFIGS.glob("[!_]*.py")))
        raise SystemExit(f"--config: cannot load it: {reason}\nThere are\n{known}") from None
    return flag.value
