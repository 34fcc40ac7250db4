"""Trains, evaluates or exports a recipe.

  python -m mmjax.main --config configs/language_emoji.py
  python -m mmjax.main --config configs/language_emoji.py:tiny --workdir runs/tiny
  python -m mmjax.main --config configs/language_emoji.py --config.optim.lr=3e-4 --workdir runs/a
  python -m mmjax.main --mode evaluate --workdir runs/a
  python -m mmjax.main --mode export --workdir runs/a

A run that was stopped goes on when the same command is given again. What is trained keeps its
recipe: to evaluate or export it, its folder is enough.

SIGTERM and Ctrl-C save at the next step and end the run, a second one ends it at once. Exit codes:
0 done, 1 an error, told in one sentence, 75 another process of the run was lost, 130 Ctrl-C, 143
SIGTERM.
"""

import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from mmjax.commands import command_line
from mmjax.errors import MmjaxError, failed_recipe, unknown_field
from mmjax.processes import interrupts, launchers, peers, watchdog
from mmjax.runs import run_folder

command_line.accept_none()
# The arguments as they are read: `parse` may add the recipe of a run folder.
_ARGUMENTS: list[str] = []

CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "Recipe: a Python file with get_config(), e.g. configs/language_emoji.py:tiny.",
    sys_argv=_ARGUMENTS,
)
WORKDIR = flags.DEFINE_string("workdir", None, "Run folder; runs/RECIPE where it is not given.")
MODE = flags.DEFINE_enum(
    "mode",
    "train",
    ["train", "evaluate", "export"],
    "train (and evaluate), only evaluate what is trained, or export the adapters as safetensors.",
)
DEVICES = flags.DEFINE_integer(
    "cpu_devices", 0, "Emulate so many devices on the CPU (0: one), to try a mesh without a pod."
)
DISTRIBUTED = flags.DEFINE_bool(
    "distributed",
    None,
    "Whether this is one of several processes; left out, Slurm, Open MPI, JobSet, a TPU pod or "
    "JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID say so.",
)
COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of process 0, where nothing else says who is who."
)
NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", None, "With --coordinator: how many processes there are.", lower_bound=1
)
PROCESS_ID = flags.DEFINE_integer(
    "process_id", None, "With --coordinator: the number of this one, from 0.", lower_bound=0
)
PEER_TIMEOUT = flags.DEFINE_float(
    "peer_timeout",
    30.0,
    "Seconds that the processes of --distributed wait for each other, and without a sign of life "
    "after which one is lost.",
    lower_bound=3.0,
)
STUCK_AFTER = flags.DEFINE_float(
    "stuck_after",
    None,
    "Seconds without a step after which a training ends, and with it all its processes; longer "
    "than compiling takes. 0 waits for ever; left out 3600 for several processes, else 0.",
    lower_bound=0.0,
)
PROFILE = flags.DEFINE_integer(
    "profile", 0, "Trace so many steps of every training, for Perfetto or XProf.", lower_bound=0
)
_PROCESSES = (DISTRIBUTED, COORDINATOR, NUM_PROCESSES, PROCESS_ID, PEER_TIMEOUT, STUCK_AFTER)
_OWN = (CONFIG, WORKDIR, MODE, DEVICES, *_PROCESSES, PROFILE)


def parse(
    argv: list[str], about: str | None = __doc__, listed: Sequence[flags.FlagHolder] = _OWN
) -> list[str]:
    """Reads the flags; an unknown key or a recipe that cannot be read becomes one sentence.

    Args:
      argv: as the user typed it.
      about: the command's help says it before the flags.
      listed: flags of mmjax that the help tells.

    Returns:
      The arguments that are no flags.
    """
    if command_line.asks_for_help(argv):
        print(f"{(about or '').strip()}\n\n{command_line.describe_flags(listed, argv)}")
        sys.exit(0)
    _ARGUMENTS[:], base = command_line.without_base(command_line.with_kept_recipe(argv))
    try:
        rest = flags.FLAGS(_ARGUMENTS)
        if CONFIG.present:
            CONFIG.value.keys()  # a missing file is told only now
        if base is not None and CONFIG.present:
            command_line.set_base(CONFIG.value, base, argv)
        return rest
    except flags.Error as error:
        own = "whilst parsing config file" in str(error)  # absl passes the recipe's own errors on
        reason = failed_recipe(error, argv) if own else " ".join(str(error).split())[:300]
    except MmjaxError as error:
        reason = str(error)
    except Exception as error:  # a recipe is a program: it can fail in any way
        reason = unknown_field(error, argv) or failed_recipe(error, argv)
    print(f"error: cannot read the flags: {reason}", file=sys.stderr)
    sys.exit(1)


def refuse_arguments(argv: list[str]) -> None:
    """Ends with the usage where something stands there that is no flag."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}; did you mean --config FILE?")


def main(argv: list[str]) -> None:
    """Flags -> distributed init -> spec -> train, evaluate or export."""
    refuse_arguments(argv)
    if CONFIG.value is None:
        raise app.UsageError(
            "--config is missing, e.g. --config configs/language_emoji.py; --mode evaluate and "
            "--mode export need the --workdir of a run alone"
        )
    run(start)


def run(start: Callable[[], None]) -> None:
    """Does what a command is for; every end has its sentence and its exit code."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    absl_logging.set_verbosity(absl_logging.WARNING)  # Orbax tells every file it touches
    try:
        with interrupts.installed():
            start()
    except MmjaxError as error:
        print(f"error: {error}", file=sys.stderr)
        peers.leave(1)
        sys.exit(1)
    except KeyboardInterrupt as error:
        print("stopped; the same command goes on where it was", file=sys.stderr)
        peers.leave(0)
        sys.exit(error.code if isinstance(error, interrupts.Interrupted) else 130)
    except Exception:
        peers.explain()  # a collective fails where another process is lost
        raise
    peers.leave(0)


def launch() -> launchers.Launch | None:
    """What this process is part of; None where it is alone."""
    flag_values = COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value, DISTRIBUTED.value
    return launchers.find_launch(os.environ, *flag_values)


def start() -> None:
    """Everything that imports jax."""
    from mmjax.specs.build import as_dict
    from mmjax.specs.recipe import resolve_recipe

    config = as_dict(CONFIG.value)
    recipe = resolve_recipe(config)
    workdir = Path(WORKDIR.value or f"runs/{recipe.name}")

    from mmjax import assets, predict, study
    from mmjax.processes import starting
    from mmjax.runs import lock, pace

    compiled = assets.cache_dir() / "compiled"
    joined = launch()
    starting.set_up(DEVICES.value, joined, compiled, PEER_TIMEOUT.value)
    patience = 3600.0 if joined is not None else 0.0
    watchdog.set_limit(patience if STUCK_AFTER.value is None else STUCK_AFTER.value)
    pace.trace_steps(PROFILE.value)
    command = shlex.join(["python", "-m", "mmjax.main", *sys.argv[1:]])
    if MODE.value == "train":
        study.run(recipe, config, workdir, command)
    elif MODE.value == "evaluate":
        study.evaluate(recipe, config, workdir, command)
    else:
        run_folder.check_same(workdir, config, run_folder.ASKED)
        with lock.hold(workdir):
            for folder in predict.export(study.plan(recipe, workdir), workdir / "export"):
                print(f"exported: {folder.resolve()}")


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
