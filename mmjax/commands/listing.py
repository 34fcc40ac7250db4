"""`mmjax list`: what there is to train, to train on, and to train with."""

import argparse
from collections.abc import Callable, Sequence

from mmjax.commands import recipes


def _recipes() -> list[str]:
    return [f"{name:26s}{what}" for name, what in recipes.names().items()]


def _tasks() -> list[str]:
    from mmjax.specs.families import task_names

    return list(task_names())


def _adapters() -> list[str]:
    from mmjax.adapters.catalog import ADAPTERS

    return ADAPTERS.names()


def _encoders() -> list[str]:
    from mmjax.encoders.catalog import FAMILIES

    return FAMILIES.names()


def _corpora() -> list[str]:
    from mmjax.data.corpora.catalog import CORPORA
    from mmjax.data.own import FORMS

    return [*CORPORA.names(), f"your own: {FORMS}"]


def _evaluators() -> list[str]:
    from mmjax.evals.catalog import EVALUATORS
    from mmjax.specs.family import RETRIEVAL

    of_answers = ("vqa", "scienceqa", "held_out", "text")
    return [*RETRIEVAL, "fewshot", "probe", *of_answers, *EVALUATORS.names()]


def _assets() -> list[str]:
    from mmjax import assets

    return [
        f"{e.asset.name:26s}{e.asset.size / 1e6:5.0f} MB  "
        f"{'here' if e.ready else 'to be fetched'}, {e.asset.licence}"
        for e in assets.list_assets()
    ]


PARTS: dict[str, Callable[[], list[str]]] = {
    "recipes": _recipes,
    "tasks": _tasks,
    "adapters": _adapters,
    "encoders": _encoders,
    "corpora": _corpora,
    "evaluators": _evaluators,
    "assets": _assets,
}


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    made = argparse.ArgumentParser(prog="mmjax list", description="Says what there is.")
    made.add_argument("part", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all")
    return made


def main(arguments: Sequence[str]) -> int:
    """Prints the names of parts, those of other packages among them.

    Args:
      arguments: behind `mmjax list`.

    Returns:
      0, or 2 for a part that is none.
    """
    made = parser()
    options = made.parse_args(arguments)
    if wrong := [part for part in options.part if part not in PARTS]:
        made.error(f"{wrong[0]!r} is none of {', '.join(PARTS)}")
    for part in options.part or PARTS:
        print(f"{part}:")
        names = PARTS[part]()
        short = all(len(name) < 26 for name in names)
        print("  " + (", ".join(names) if short else "\n  ".join(names)))
    return 0
