"""The command line of a launcher: --config, --config.field, --workdir. A mistyped argument is reported in one line."""

import pathlib
import sysconfig
import traceback
from collections.abc import Callable

from absl import app, flags, logging
from ml_collections import config_flags

from bespoke_jax import sharding
from experiments.run import processes, stopping
from experiments.run.config import ConfigDict
from experiments.run.errors import ReadError, WriteError, reason_of

__all__ = ["run"]

_CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
_LIBRARIES = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib"))


def run(main: Callable[[ConfigDict, str], int | None], default: str) -> None:
    """Parse the command line, call `main(config, workdir)`, and exit with the status that it returns.

    Args:
        main: the launcher.
        default: the config in `configs/` to use without --config.
    """
    try:
        config = config_flags.DEFINE_config_file(
            "config", str(_CONFIGS / f"{default}.py"), "Python file with get_config()."
        )
    except Exception as error:  # absl reads overrides of the default config here already
        raise SystemExit(_what_is_wrong(error)) from None
    workdir = flags.DEFINE_string("workdir", None, "The folder to write to; config.workdir if not given.")

    address = flags.DEFINE_string("coordinator_address", None, "With several processes: host:port of the first one.")
    num_processes = flags.DEFINE_integer(
        "num_processes", None, "With several processes: how many; TPU pods and Slurm know."
    )
    process_id = flags.DEFINE_integer("process_id", None, "With several processes: which one this is, from 0.")

    def start(_):
        sharding.use_all_cores()
        try:
            processes.start(address.value, num_processes.value, process_id.value)
        except ValueError as error:
            raise SystemExit(str(error)) from None
        loaded = _loaded(config)
        try:
            with stopping.listening():
                return main(loaded, loaded.get("workdir") if workdir.value is None else workdir.value)
        except (ReadError, WriteError) as error:
            raise SystemExit(str(error)) from None
        except KeyboardInterrupt:
            raise SystemExit("\nInterrupted. The same command continues from the last checkpoint.") from None

    app.run(start, flags_parser=_parse)


def _parse(argv):
    try:
        rest = flags.FLAGS(argv)
    except Exception as error:  # a config is the user's own code: it may raise anything
        raise SystemExit(_what_is_wrong(error)) from None
    if len(rest) > 1:
        raise SystemExit(f"{rest[1]!r}: not understood; every argument begins with --config or --workdir.")
    if flags.FLAGS["verbosity"].using_default_value:
        logging.set_verbosity(logging.WARNING)  # Orbax logs each of its steps
    return rest


def _what_is_wrong(error: Exception) -> str:
    """One line for an error raised while the command line was read, by the config's own code or by an argument."""
    chain: list[BaseException] = [error]
    while following := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(following)
    for cause in reversed(chain):
        if place := _place_in_config(cause):
            return f"--config: {place}: {type(cause).__name__}: {reason_of(cause)}"
    if "get_config" in str(error) or "FrozenConfigDict" in str(error):
        return f"--config: wanted a Python file with a function get_config() that returns a ConfigDict; {reason_of(chain[-1])}"
    said = " ".join(str(error).split())
    if isinstance(error, AttributeError | KeyError):
        return "--config: no such field: " + said.strip("\"'").replace("\\'", "'").replace("\\n", " ")
    return said if isinstance(error, flags.Error) else f"--config: cannot load it: {said}"


def _place_in_config(error: BaseException) -> str:
    """File, line and source of the config's code that raised an error; "" if other code did."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}: {(error.text or '').strip():.100}"
    frames = traceback.extract_tb(error.__traceback__)
    loaders = [number for number, frame in enumerate(frames) if frame.filename == config_flags.config_flags.__file__]
    ran = frames[loaders[-1] + 1 :] if loaders else []
    own = [frame for frame in ran if not frame.filename.startswith(("<frozen", *_LIBRARIES))]
    return f"{own[-1].filename}, line {own[-1].lineno}: {own[-1].line}" if own else ""


def _loaded(flag) -> ConfigDict:
    loaded = None
    try:
        loaded = flag.value
        loaded.to_dict()
    except OSError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        known = "\n".join(f"  {path}" for path in sorted(_CONFIGS.glob("[!_]*.py")))
        raise SystemExit(f"--config: cannot load it: {reason}\nThere are\n{known}") from None
    except (flags.Error, AttributeError):  # get_config returned something other than a ConfigDict
        pass
    if not isinstance(loaded, ConfigDict):
        raise SystemExit(
            f"--config: wanted a ConfigDict from get_config, got {type(loaded).__name__}; return "
            "ml_collections.ConfigDict(...)."
        )
    return loaded
