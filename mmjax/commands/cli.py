"""The `mmjax` command: from data to a recipe, a run, its figures and what is shared.

  mmjax list                                             recipes, tasks, adapters, encoders, assets
  mmjax check photos/                                    looks your data over
  mmjax new language --data my.csv --language de         writes a recipe that fits it
  mmjax train language_emoji:tiny --workdir runs/tiny    as python -m mmjax.main --config ...
  mmjax train my_recipe.py --config.optim.lr=3e-4
  mmjax evaluate runs/tiny
  mmjax compare runs/a runs/b                            a page with both
  mmjax export runs/tiny
  mmjax push runs/tiny ORG/NAME                          adapter and page to the hub
  mmjax chat runs/lavin_easyvqa                          as python -m mmjax.chat
  mmjax app runs/language_emoji --images photos/         as python -m mmjax.app
  mmjax plan lavin_scienceqa_7b --topology v5e-8         as python -m mmjax.plan
  mmjax synthesize synthesize_emoji:tiny                 as python -m mmjax.synthesize
  mmjax assets list                                      as python -m mmjax.assets
  mmjax bench loss-time                                  as python -m mmjax.bench, in a checkout
  mmjax completion bash                                  for your shell's start-up file

`mmjax COMMAND --help` says more. A recipe is a file, or the name of one that mmjax brings; all
flags of `python -m mmjax.main --help` may follow it.
"""

import difflib
import importlib
import sys
from collections.abc import Sequence

from mmjax.commands import recipes
from mmjax.errors import MmjaxError

# name -> (an example, what reads its flags: a module with `main` and `parse`).
FLAGS = {
    "train": ("mmjax train language_emoji:tiny", "mmjax.main"),
    "evaluate": ("mmjax evaluate runs/language_emoji", "mmjax.main"),
    "export": ("mmjax export runs/language_emoji", "mmjax.main"),
    "plan": ("mmjax plan lavin_scienceqa_7b --topology v5e-8", "mmjax.plan.command"),
    "synthesize": ("mmjax synthesize synthesize_emoji:tiny", "mmjax.synthesize.command"),
}
# name -> a module whose `main(arguments)` returns an exit code; its `parser()`, where there is one,
# says what it takes.
PROGRAMS = {
    "list": "mmjax.commands.listing",
    "check": "mmjax.commands.check",
    "new": "mmjax.commands.new",
    "compare": "mmjax.commands.compare",
    "push": "mmjax.commands.push",
    "chat": "mmjax.chat",
    "app": "mmjax.app.command",
    "assets": "mmjax.assets.__main__",
    "bench": "mmjax.commands.bench",
    "completion": "mmjax.commands.completion",
}
COMMANDS = (*FLAGS, *PROGRAMS)
RECIPES = ("train", "plan", "synthesize")


def arguments(argv: Sequence[str]) -> list[str]:
    """What the program of a command would be given.

    Args:
      argv: command, recipe or run folder, flags.

    Returns:
      Its arguments.

    Raises:
      MmjaxError: an unknown command, or nothing to do it with.
    """
    command, rest = argv[0], list(argv[1:])
    if command not in COMMANDS:
        near = difflib.get_close_matches(command, COMMANDS, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise MmjaxError(
            f"there is no command {command!r}; known: {', '.join(sorted(COMMANDS))}{hint}"
        )
    if command in ("chat", "app") and rest and not rest[0].startswith("-"):
        return ["--adapter", *rest]
    if command in PROGRAMS:
        return rest
    makes = command in RECIPES
    operand = "a recipe" if makes else "a run folder"
    if not rest or (rest[0].startswith("-") and not {"--help", "-h"} & set(rest)):
        raise MmjaxError(f"mmjax {command} needs {operand}, e.g. {FLAGS[command][0]}")
    if rest[0].startswith("-"):
        return rest
    if makes:
        return [f"--config={recipes.find_recipe(rest[0])}", *rest[1:]]
    return [f"--mode={command}", f"--workdir={rest[0]}", *rest[1:]]


def main() -> None:
    """The console script."""
    argv = sys.argv[1:]
    if not argv or argv[0] in ("-h", "--help", "help"):
        print((__doc__ or "").strip())
        return
    try:
        program_argv = arguments(argv)
        if argv[0] in PROGRAMS:
            sys.exit(importlib.import_module(PROGRAMS[argv[0]]).main(program_argv))
    except MmjaxError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    from absl import app

    door = importlib.import_module(FLAGS[argv[0]][1])
    app.run(door.main, argv=["mmjax", *program_argv], flags_parser=door.parse)


if __name__ == "__main__":
    main()
