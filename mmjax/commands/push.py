"""`mmjax push RUN ORG/NAME`: puts a trained adapter and its page on the hub."""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    made = argparse.ArgumentParser(
        prog="mmjax push",
        description="Exports an adapter and uploads it with its card, page and curves. "
        'mmjax.load_adapter("hf:ORG/NAME") loads it again.',
        epilog="The token is that of `hf auth login`, or $HF_TOKEN; $HF_ENDPOINT is another hub.",
    )
    made.add_argument("run", help="a run folder, a stage's, or an export")
    made.add_argument("repo", metavar="ORG/NAME")
    made.add_argument("--seed", type=int, help="which seed (default: the best on validation)")
    made.add_argument(
        "--private", action="store_true", help="a new one is seen by its owners alone"
    )
    made.add_argument("--message", default="", help="of the commit")
    return made


def main(arguments: Sequence[str]) -> int:
    """Exports and uploads.

    Args:
      arguments: behind `mmjax push`.

    Returns:
      0.

    Raises:
      MmjaxError: nothing is trained there, or the hub refuses.
    """
    options = parser().parse_args(arguments)
    from mmjax import predict
    from mmjax.runs import hub
    from mmjax.runs.adapter_files import find_adapter

    source = find_adapter(Path(options.run), options.seed)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "adapter"
        predict.export_whole(source, folder, options.repo)
        print(f"{source} is exported: {', '.join(sorted(p.name for p in folder.iterdir()))}")
        url = hub.push(folder, options.repo, options.private, options.message)
    print(f'{url}\nmmjax.load_adapter("{hub.PREFIX}{options.repo}")')
    return 0
