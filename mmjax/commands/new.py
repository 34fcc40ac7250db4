"""`mmjax new TASK --data DATA`: writes a recipe for a user's data after looking at it."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from mmjax.checks.names import check_name
from mmjax.errors import MmjaxError, shown, writing
from mmjax.files import write_atomic


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    from mmjax.inspection.kinds import TASKS

    made = argparse.ArgumentParser(
        prog="mmjax new",
        description="Looks your data over, writes a recipe that fits it, and says what to do next.",
        epilog="tasks: " + "; ".join(f"{name}: {what}" for name, (what, _) in TASKS.items()),
    )
    made.add_argument("task", metavar="TASK", choices=list(TASKS), help=", ".join(TASKS))
    made.add_argument(
        "--data", required=True, help="FILE.jsonl, .csv, .tsv, .tar or a folder of classes"
    )
    made.add_argument("--language", default="", metavar="CODE", help="to add, e.g. de")
    made.add_argument("--known", default="", metavar="CODE", help="that the base knows, e.g. en")
    made.add_argument(
        "--encoder",
        action="append",
        default=[],
        metavar="ROLE=SOURCE",
        help="image, text or foreign; a folder, asset:NAME or hf:org/name",
    )
    made.add_argument("--base", default="", metavar="RUN", help="a finished run to stand on")
    made.add_argument("--name", default="", help="of the recipe; from the data's where not given")
    made.add_argument("--out", default="", metavar="FOLDER", help="where to write (default: here)")
    made.add_argument("--force", action="store_true", help="replace files that are there")
    return made


def main(arguments: Sequence[str]) -> int:
    """Writes the recipe, and a mended copy of the data where it needs one.

    Args:
      arguments: behind `mmjax new`.

    Returns:
      0.

    Raises:
      MmjaxError: data that does not fit the task, a file that is there already.
    """
    options = parser().parse_args(arguments)
    from mmjax.inspection import sizes
    from mmjax.inspection.draft import ENCODERS, Wanted
    from mmjax.inspection.look import look_over
    from mmjax.inspection.recipe import as_jsonl, plan

    encoders = {}
    for encoder in options.encoder:
        role, equals, source = encoder.partition("=")
        if not equals or role not in ENCODERS or not source:
            raise MmjaxError(
                f"--encoder {shown(encoder)} is no ROLE=SOURCE; roles are {', '.join(ENCODERS)}"
            )
        encoders[role] = source
    folder, name = Path(options.out), options.name or name_for(options.data, options.task)
    check_name("--name", name)
    look = look_over(options.data)
    languages = (options.language, options.known)
    wanted = Wanted(options.task, name, languages, encoders, options.base, folder)
    made = plan(look, wanted)
    recipe, copy = folder / f"{name}.py", folder / f"{name}.jsonl"
    for path in (recipe, *([copy] if made.rows else [])):
        if path.exists() and not options.force:
            raise MmjaxError(f"{path} is there already; give another --name, or --force")
    with writing(recipe):
        folder.mkdir(parents=True, exist_ok=True)
    if made.rows:
        write_atomic(copy, as_jsonl(made.rows))
    write_atomic(recipe, made.text)
    print("\n".join([*look.lines(), "", f"wrote {recipe}"]))
    if made.rows:
        print(f"wrote {copy}, a mended copy with {len(made.rows)} rows")
    print("\n".join(f"- {note}" for note in made.notes))
    if not encoders:
        print("encoders that could take their place (--encoder ROLE=SOURCE):")
        for candidate, state in sizes.fitting():
            print(
                f"  {candidate.source:34s}{candidate.megabytes:5d} MB  {state:16s}"
                f"{candidate.role}: {candidate.note}"
            )
    print(f"next:\n  mmjax train {recipe}:tiny   # a try\n  mmjax train {recipe}")
    return 0


def name_for(data: str, task: str) -> str:
    """A recipe's name from the data's."""
    stem = Path(data.rstrip("/")).name.partition(".")[0]
    return re.sub(r"\W+", "_", f"{stem}_{task}").strip("_") or task
