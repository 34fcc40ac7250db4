"""Measures mmjax beside its peers; `python -m mmjax.bench NAME ...` runs some, no name runs all."""

import argparse
import dataclasses
import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness import Grid, Line, Options, Report, surroundings
from mmjax.errors import MmjaxError
from mmjax.files import write_atomic

DEVICES = 8  # emulated on a CPU, for the benchmarks that compile for several
BENCHMARKS = {
    "loss-memory": "temporary memory of the loss and its gradients against the batch size",
    "loss-time": "seconds of the loss and its gradients beside PyTorch and a naive form",
    "loss-ring": "memory, traffic and error of the sharded loss on 1, 2, 4 and 8 devices",
    "loss-max-batch": "the largest batch that a memory budget allows",
    "accelerator": "attention, loss, decoding and LaVIN's step on the GPU or TPU at hand",
    "adapter-cached": "a training step that reads the feature cache beside one that does not",
    "adapter-kinds": "a training step with each kind of adapter in both encoders, and its memory",
    "adapter-lm": "a training step of routed adapters beside torch and beside full fine-tuning",
    "clip-forward": "CLIP's image tower beside Hugging Face's torch model, and loading its file",
    "decode": "greedy tokens a second beside Hugging Face's generate in torch",
    "extract": "pictures a second through a frozen encoder",
    "gradient-cache": "a contrastive step in parts beside the whole batch: its time and memory",
    "families": "every family's forward pass and file beside Hugging Face's torch model",
    "instruct-buckets": "real and padded tokens, and steps in buckets of length beside padding",
    "instruct-memory": "bytes a device of LaVIN's training step at 7B and 13B, on 1 to 256 devices",
    "loader": "pictures a second from JPEG to array",
    "merged-decode": "greedy tokens a second with a merged adapter, beside the bare model",
    "prefix": "generation and labels behind a prefix that is read once, beside without",
    "projection-fit": "a fit of the projection, 5,000 x 768, beside PyTorch",
    "real-sizes": "bytes a device of published models on eight v5e, by Google's compiler",
    "synthesis-scale": "chip-hours of 500,000 captions with an 8B synthesizer, by arithmetic",
    "synthesis-stream": "records a second and memory of composing, and of importing answers",
    "startup": "seconds to import, to answer --help, to compile first and from the cache",
}


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    names = "\n".join(f"  {name:18s}{what}" for name, what in BENCHMARKS.items())
    parser = argparse.ArgumentParser(
        prog="python -m mmjax.bench",
        description=f"{__doc__}\n\n{names}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="which; all if none is given")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="small sizes, 3 rounds (the default)")
    size.add_argument("--full", action="store_true", help="all sizes, 7 rounds")
    parser.add_argument("--peer", choices=("torch", "none"), default="none", help="beside whom")
    parser.add_argument(
        "--peer-python",
        action="append",
        default=[],
        metavar="{jimm,flaxclip}=PYTHON",
        help="another peer for clip-forward, in an interpreter of its own",
    )
    parser.add_argument("--batch", type=int, nargs="+", default=(), help="batch sizes instead")
    parser.add_argument("--rounds", type=int, default=0, help="rounds of timing instead")
    parser.add_argument("--threads", type=int, default=0, help="cores of each side instead of all")
    parser.add_argument("--config", default=Options.config, help="recipe for adapter-cached")
    parser.add_argument("--json", type=Path, help="write every sample here")
    parser.add_argument("--table", type=Path, help="write the ratios here, as a Markdown table")
    parser.add_argument("--plot", type=Path, help="draw memory and time against the batch here")
    args = parser.parse_args(arguments)
    args.peer_python = dict(entry.partition("=")[::2] for entry in args.peer_python)
    for name, python in args.peer_python.items():
        if name not in ("jimm", "flaxclip") or not python:
            parser.error(f"--peer-python {name}={python}; expected jimm=PYTHON or flaxclip=PYTHON")
    for name in args.names:
        if name not in BENCHMARKS:
            parser.error(f"no benchmark {name!r}; there are {', '.join(BENCHMARKS)}")
    return args


def main() -> None:
    """Runs, prints and writes."""
    args = parse()
    names = args.names or list(BENCHMARKS)
    options = Options(
        args.full,
        args.peer,
        args.peer_python,
        tuple(args.batch),
        args.rounds,
        args.config,
        args.threads,
    )
    if {"loss-ring", "loss-max-batch", "instruct-memory", "real-sizes"} & set(names):
        import jax

        jax.config.update("jax_num_cpu_devices", DEVICES)
    reports: dict[str, Report] = {}
    for name in names:
        module = importlib.import_module(f"benchmarks.{name.replace('-', '_')}")
        reports[name] = module.run(options)
        for grid in reports[name].grids:
            show(grid)
    lines = [line for report in reports.values() for line in report.lines]
    if lines:
        columns = ("work", "beside", "share of its time, median [90 %]", "A/A")
        show(Grid("All of them", columns, tuple(dataclasses.astuple(line) for line in lines)))
    if args.table:
        write_atomic(args.table, table(lines))
    if args.json:
        samples = {name: report.samples for name, report in reports.items()}
        text = json.dumps({"surroundings": surroundings(), "samples": samples}, indent=1)
        write_atomic(args.json, text)
    if args.plot:
        from benchmarks.plot import draw

        draw(reports.values(), args.plot)


def table(lines: Sequence[Line]) -> str:
    """The ratios for a page; where the machine settled none, the page says so."""
    rows = [("what", "beside", "share of its time", "A/A"), ("---",) * 4]
    rows += [dataclasses.astuple(line) for line in lines]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def show(grid: Grid) -> None:
    """Prints a table, whole rows where the output is no terminal."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=grid.title)
    for i, column in enumerate(grid.columns):
        table.add_column(column, justify="right" if i else "left", no_wrap=True)
    for row in grid.rows:
        table.add_row(*row)
    console = Console()
    (console if console.is_terminal else Console(width=160)).print(table)


if __name__ == "__main__":
    try:
        main()
    except MmjaxError as error:
        sys.exit(f"error: {error}")
