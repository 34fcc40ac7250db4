"""`mmjax check DATA`: looks data over before an hour is spent on it."""

import argparse
import json
from collections.abc import Sequence

FAULTY = 3


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    made = argparse.ArgumentParser(
        prog="mmjax check",
        description="Looks data over like a colleague: pictures that cannot be read, duplicates, "
        "leaks between the sides of a split, empty and overlong texts, languages, classes.",
        epilog="DATA: FILE.jsonl, .csv, .tsv, .tar, .parquet, hf:ORG/NAME, tfds:NAME, or a folder, "
        "with one folder a class say. Exit codes: 0 nothing that training would refuse, "
        f"{FAULTY} something, 1 an error.",
    )
    made.add_argument("data", metavar="DATA")
    made.add_argument(
        "--json", action="store_true", help="all findings with all rows, for programs"
    )
    return made


def main(arguments: Sequence[str]) -> int:
    """Prints what was found.

    Args:
      arguments: behind `mmjax check`.

    Returns:
      Exit code.

    Raises:
      MmjaxError: there is no such data.
    """
    options = parser().parse_args(arguments)
    from mmjax.inspection.look import look_over

    look = look_over(options.data)
    if options.json:
        print(json.dumps(look.as_json(), ensure_ascii=False, indent=1))
    else:
        print("\n".join(look.lines()))
    return FAULTY if look.errors else 0
