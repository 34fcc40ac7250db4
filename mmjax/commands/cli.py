"""The `mmjax` command: train, evaluate, export, list.

  mmjax list                                                  recipes, tasks, assets
  mmjax train language_emoji:tiny --workdir runs/tiny         as python -m mmjax.main --config ...
  mmjax train my_recipe.py --config.optim.lr=3e-4
  mmjax evaluate runs/tiny
  mmjax export runs/tiny

All flags of `python -m mmjax.main --help` may follow. A recipe is a file, or the name of one that
mmjax brings.
"""

import sys
from collections.abc import Sequence

from mmjax.commands import recipes
from mmjax.errors import MmjaxError

COMMANDS = ("train", "evaluate", "export", "list")


def arguments(argv: Sequence[str]) -> list[str]:
    """What `python -m mmjax.main` would be given.

    Args:
      argv: command, recipe or run folder, flags.

    Returns:
      Flags.

    Raises:
      MmjaxError: an unknown command, or nothing to do it with.
    """
    command, rest = argv[0], list(argv[1:])
    if command not in COMMANDS:
        raise MmjaxError(f"there is no command {command!r}; known: {', '.join(COMMANDS)}")
    wanted = "a recipe" if command == "train" else "a run folder"
    if not rest or (rest[0].startswith("-") and not {"--help", "-h"} & set(rest)):
        raise MmjaxError(f"mmjax {command} needs {wanted}, e.g. {_EXAMPLES[command]}")
    if rest[0].startswith("-"):
        return rest
    if command == "train":
        return [f"--config={recipes.find(rest[0])}", *rest[1:]]
    return [f"--mode={command}", f"--workdir={rest[0]}", *rest[1:]]


_EXAMPLES = {
    "train": "mmjax train language_emoji:tiny",
    "evaluate": "mmjax evaluate runs/language_emoji",
    "export": "mmjax export runs/language_emoji",
}


def show_list() -> None:
    """Prints what there is."""
    from mmjax import assets, plugins
    from mmjax.specs.families import task_names

    print("recipes (mmjax train NAME[:SIZE]):")
    for name, what in recipes.names().items():
        print(f"  {name:24s}{what}")
    print(f"tasks: {', '.join(task_names())}")
    for group in plugins.GROUPS[1:]:
        found = plugins.installed(group)
        if found:
            print(f"{group.removeprefix('mmjax.')} of other packages: {', '.join(found)}")
    ready = [e.asset.name for e in assets.list_assets() if e.ready]
    print(f"assets that are fetched: {', '.join(ready) or 'none'} (python -m mmjax.assets list)")


def main() -> None:
    """The console script."""
    argv = sys.argv[1:]
    if not argv or argv[0] in ("-h", "--help", "help"):
        print((__doc__ or "").strip())
        return
    try:
        if argv == ["list"]:
            show_list()
            return
        flags = arguments(argv)
    except MmjaxError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    from absl import app

    from mmjax import main as door

    app.run(door.main, argv=["mmjax", *flags], flags_parser=door.parse)


if __name__ == "__main__":
    main()
