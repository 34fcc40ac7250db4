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
from pathlib import Path

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from mmjax.commands import command_line
from mmjax.errors import MmjaxError, failed_recipe, unknown_field
from mmjax.processes import interrupts, peers
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
    False,
    "Several processes: jax.distributed finds its peers (TPU pod, Slurm, env).",
)
PEER_TIMEOUT = flags.DEFINE_float(
    "peer_timeout",
    30.0,
    "Seconds that the processes of --distributed wait for each other, and without a sign of life "
    "after which one is lost.",
    lower_bound=3.0,
)
_OWN = (CONFIG, WORKDIR, MODE, DEVICES, DISTRIBUTED, PEER_TIMEOUT)


def parse(argv: list[str]) -> list[str]:
    """Reads the flags; an unknown key or a recipe that cannot be read becomes one sentence."""
    if command_line.asks_for_help(argv):
        print(f"{(__doc__ or '').strip()}\n\n{command_line.describe(_OWN, argv)}")
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


def main(argv: list[str]) -> None:
    """Flags -> distributed init -> spec -> train, evaluate or export."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}; did you mean --config FILE?")
    if CONFIG.value is None:
        raise app.UsageError(
            "--config is missing, e.g. --config configs/language_emoji.py; --mode evaluate and "
            "--mode export need the --workdir of a run alone"
        )
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


def start() -> None:
    """Everything that imports jax."""
    from mmjax.specs.build import as_dict
    from mmjax.specs.recipe import resolve

    config = as_dict(CONFIG.value)
    recipe = resolve(config)
    workdir = Path(WORKDIR.value or f"runs/{recipe.name}")

    from mmjax import assets, predict, sharding, study
    from mmjax.runs import lock

    compiled = assets.cache_dir() / "compiled"
    sharding.set_up(DEVICES.value, DISTRIBUTED.value, compiled, PEER_TIMEOUT.value)
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
