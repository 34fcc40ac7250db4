"""Generates tasks from captions, filters them, and composes conversations to train on.

  python -m mmjax.synthesize --config configs/synthesize_emoji.py
  python -m mmjax.synthesize --config configs/synthesize_emoji.py --config.filter.keep_rate=0.3
  python -m mmjax.synthesize --config my.py --shard 0/4            # one of four machines
  python -m mmjax.synthesize --config my.py --retry_failed
  python -m mmjax.synthesize convert photos.csv llava:photos.json
  python -m mmjax.synthesize evaluate runs/posttrain --root data --benchmarks slake,vqa_rad

A synthesis that was stopped goes on when the same command is given again. Settings of the filter
and of composing may change in a run folder: nothing is written anew for them. `convert --help` and
`evaluate --help` say what these take.

Exit codes: 0 done, 1 an error, told in one sentence, 3 other shards or answers are waited for, 130
Ctrl-C, 143 SIGTERM.
"""

import argparse
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags

from mmjax import main as door
from mmjax.errors import MmjaxError, shown

WAITING = 3
SHARD = flags.DEFINE_string(
    "shard", "0/1", "This process's share of writing and judging, NUMBER/OF, counted from 0."
)
RETRY = flags.DEFINE_bool("retry_failed", False, "Try again what failed before.")
_OWN = (door.CONFIG, door.WORKDIR, SHARD, RETRY, door.DEVICES)


def start() -> None:
    """The command."""
    commands = {"convert": _convert, "evaluate": _evaluate}
    if len(sys.argv) > 1 and sys.argv[1] in commands:
        door.run(lambda: commands[sys.argv[1]](sys.argv[2:]))
        return
    app.run(main, flags_parser=parse)


def parse(argv: list[str]) -> list[str]:
    """Reads the flags of a synthesis; see `mmjax.main.parse`."""
    return door.parse(argv, __doc__, _OWN)


def main(argv: list[str]) -> None:
    """Flags -> settings -> the synthesis."""
    door.refuse_arguments(argv)
    if door.CONFIG.value is None:
        raise app.UsageError("--config is missing, e.g. --config configs/synthesize_emoji.py")
    door.run(_synthesize)


def _synthesize() -> None:
    """Everything that imports jax."""
    from mmjax.specs.build import as_dict
    from mmjax.specs.synthesis import resolve_synthesis

    config = as_dict(door.CONFIG.value)
    spec = resolve_synthesis(config)
    shard = _shard(SHARD.value)

    from mmjax import assets
    from mmjax.processes import starting
    from mmjax.synthesis.pipeline import Synthesis

    starting.set_up(door.DEVICES.value, None, assets.cache_dir() / "compiled")
    command = shlex.join(["python", "-m", "mmjax.synthesize", *sys.argv[1:]])
    folder = Path(door.WORKDIR.value or f"runs/{spec.name}")
    if not Synthesis(spec, config, folder, command, shard, RETRY.value).run():
        sys.exit(WAITING)
    print(f"report: {(folder / 'synthesis.html').resolve()}")


def _shard(value: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", value)
    if match is None or int(match[1]) >= int(match[2]):
        raise MmjaxError(f"--shard is {shown(value)}; expected NUMBER/OF, such as 0/4 to 3/4")
    return int(match[1]), int(match[2])


def _convert(argv: Sequence[str]) -> None:
    from mmjax.synthesis import formats

    parser = argparse.ArgumentParser(
        prog="python -m mmjax.synthesize convert",
        description="Writes images with captions, or conversations, in another form.",
    )
    parser.add_argument(
        "source", help="your own data as in docs/data.md, records:FILE, llava:FILE, sharegpt:FILE"
    )
    parser.add_argument("target", help="records:FILE, llava:FILE or sharegpt:FILE")
    parser.add_argument("--images", default="", help="folder that the source's paths start from")
    parser.add_argument("--root", default="", help="folder that the target's are relative to")
    parser.add_argument("--into", type=Path, help="folder for images of sources that hold them")
    parser.add_argument("--check_images", action="store_true", help="every path must be a file's")
    args = parser.parse_args(argv)
    converted = formats.convert(
        args.source,
        args.target,
        args.images,
        args.root,
        into=args.into,
        check_images=args.check_images,
    )
    print(f"{converted.records} records are in {args.target}")
    for why, count in converted.incomplete.items():
        print(f"{count} tasks are left out: {why}")


def _evaluate(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m mmjax.synthesize evaluate",
        description="Measures an instruct adapter by benchmarks, legacy and strict metrics beside "
        "each other.",
    )
    parser.add_argument("adapter", type=Path, help="a run folder, or an adapter's")
    parser.add_argument("--benchmarks", required=True, help="names, with commas between them")
    parser.add_argument("--root", type=Path, required=True, help="holds a folder a benchmark")
    parser.add_argument("--workdir", type=Path, help="for answers and results")
    parser.add_argument("--limit", type=int, default=0, help="questions a benchmark (0: all)")
    parser.add_argument("--max_new_tokens", type=int, default=256, help="of an answer")
    parser.add_argument("--retry", action="store_true", help="ask again what has no answer")
    args = parser.parse_args(argv)

    from mmjax.synthesis import answering

    answering.evaluate_adapter(
        args.adapter,
        args.benchmarks.split(","),
        args.root,
        args.workdir or args.adapter / "benchmarks",
        args.limit,
        args.max_new_tokens,
        args.retry,
    )
