"""A page in the browser for a trained adapter.

  python -m mmjax.app --adapter runs/language_emoji --images photos/ --example 红苹果
  python -m mmjax.app --adapter runs/photos_prompts
  python -m mmjax.app --adapter runs/lavin_easyvqa --example "what shape is it?"

A dual encoder searches pictures by text, with the frozen model's answer beside it; a few-shot
classifier knows its own classes and those that a visitor teaches; an instruct adapter answers
questions about a picture. Needs the extra `app`.
"""

import argparse
import dataclasses
import functools
import importlib.util
import ipaddress
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmjax.checks.parsers import OneLineParser, exit_code, tell
from mmjax.errors import MmjaxError

if TYPE_CHECKING:
    from mmjax.app.limits import Limits

MISSING = "the page needs the extra `app`: python -m pip install 'mmjax[app]'"


def parser() -> OneLineParser:
    """The command's arguments."""
    made = OneLineParser(
        prog="python -m mmjax.app",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "--adapter", metavar="RUN", required=True, help="a finished run, or its export"
    )
    made.add_argument("--images", metavar="FOLDER", help="pictures to search, or to ask about")
    made.add_number("--most-images", 5000, "N", "of them")
    made.add_argument(
        "--example",
        action="append",
        default=[],
        metavar="TEXT",
        help="a query, class name or question to click on; may be given again",
    )
    made.add_argument(
        "--host",
        default="127.0.0.1",
        help="the address to listen on (default: 127.0.0.1, this machine alone)",
    )
    made.add_number("--port", 7860, None, "0 takes a free one")
    made.add_number(
        "--concurrency", 1, "N", "visitors that the models answer at a time; others queue"
    )
    made.add_number("--waiting", 100, "N", "visitors in the queue")
    made.add_number("--max-megabytes", 8, "N", "of an upload")
    made.add_number("--max-new-tokens", 96, "N", "of an answer")
    made.add_allow_other_encoder()
    made.add_argument(
        "--share",
        action="store_true",
        help="a public address, through Gradio's servers; refused without --share-with-anyone",
    )
    made.add_argument(
        "--share-with-anyone",
        action="store_true",
        help="yes: whoever has the address may use this machine's models",
    )
    return made


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options, checked as far as no model is needed."""
    made = parser()
    options = made.parse_args(arguments)
    if options.share and not options.share_with_anyone:
        made.error(
            "--share puts the page on the internet, through Gradio's servers, for whoever has the "
            "address; give --share-with-anyone too if that is what you want"
        )
    if options.share_with_anyone and not options.share:
        made.error("--share-with-anyone says yes to --share, which is not there")
    if not 0 <= options.port < 1 << 16:
        made.error(f"--port {options.port} must be at least 0 and below 65536")
    made.at_least_1(
        options, "most_images", "concurrency", "waiting", "max_megabytes", "max_new_tokens"
    )
    if options.concurrency > 16:
        made.error(f"--concurrency {options.concurrency} must be at most 16")
    return options


def limits_of(options: argparse.Namespace) -> "Limits":
    """What a visitor may send, by the options."""
    from mmjax.app.limits import Limits

    changed = {"file_bytes": options.max_megabytes << 20, "waiting": options.waiting}
    return dataclasses.replace(Limits(), **changed)


def is_loopback(host: str) -> bool:
    """Whether an address is of this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def main(arguments: Sequence[str] | None = None) -> int:
    """Serves the page until Ctrl-C.

    Args:
      arguments: instead of the command line's.

    Returns:
      Exit code: 0 after Ctrl-C, 2 after one sentence on stderr.
    """
    options = _options(arguments)
    return exit_code(functools.partial(_start, options), stopped=0)


def _start(options: argparse.Namespace) -> None:
    """Everything that imports jax or gradio."""
    if importlib.util.find_spec("gradio") is None:
        raise MmjaxError(MISSING)
    from absl import logging as absl_logging

    from mmjax import assets, predict
    from mmjax.app.kinds import page_of
    from mmjax.app.pictures import SamplePictures, samples_in
    from mmjax.app.search import Search
    from mmjax.processes import starting

    absl_logging.set_verbosity(absl_logging.WARNING)  # Orbax tells every file it touches
    starting.set_up(0, None, assets.cache_dir() / "compiled")
    tell(f"loading {options.adapter} and its frozen models ...")
    adapted = predict.load_adapter(options.adapter, allow_other_encoder=options.allow_other_encoder)
    page = page_of(adapted, limits_of(options), options.max_new_tokens)
    gallery, samples = None, SamplePictures()
    if options.images is not None:
        folder = Path(options.images)
        if isinstance(page, Search):
            gallery = page.of_folder(folder, options.most_images)
            tell(f"{len(gallery.names)} pictures of {folder} are searched")
        else:
            samples = samples_in(folder, options.most_images, page.limits)
    page.warm()
    if not is_loopback(options.host):
        tell(f"note: {options.host} lets other machines in; there is no password")
    with tempfile.TemporaryDirectory(prefix="uploads-") as uploads:
        # Read when Gradio is imported: it tells nobody that it runs, and keeps uploads here.
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        os.environ["GRADIO_TEMP_DIR"] = uploads
        from mmjax.app import serving
        from mmjax.app.page import PageLook

        places = [options.adapter, options.images or "", uploads, os.getcwd(), Path.home()]
        look = PageLook(
            title=str(adapted.card["recipe"]),
            about=page.about,
            examples=tuple(options.example),
            limits=page.limits,
            concurrency=options.concurrency,
            private=[os.path.abspath(place) for place in places if place],
            samples=samples,
        )
        door = serving.Door(options.host, options.port, options.share, Path(uploads))
        serving.serve(serving.made(page, gallery, look), look, door)
