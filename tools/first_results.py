"""How long is it from nothing to the first result of each guide?

  python -m tools.first_results --json times.json      # all guides
  python -m tools.first_results language lora
  python -m tools.first_results --write                # onto the guides' pages

Python alone is there before: a new environment is made, mmjax installed from a wheel of this
commit, and each guide begins with a home of its own, so that nothing was fetched, computed or
compiled before. A guide's first result is that of its first commands at `:tiny`, where the recipe
has one, or of the first snippet on its page; of the page in the browser, its address.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from subprocess import PIPE, STDOUT

ROOT = Path(__file__).parents[1]
GUIDES = ROOT / "docs" / "guides"
SNIPPET = "the first snippet of the page"
# Guide -> what a reader types first.
FIRST: dict[str, tuple[str, ...]] = {
    "language": ("mmjax train language_emoji:tiny",),
    "domain": ("mmjax train domain_emoji:tiny",),
    "fewshot": ("mmjax train prompts_emoji:tiny",),
    "projection": (SNIPPET,),
    "instruct": ("mmjax train lavin_easyvqa:tiny",),
    "posttrain": ("mmjax synthesize synthesize_emoji:tiny", "mmjax train posttrain_emoji:tiny"),
    "lora": (SNIPPET,),
    "pod": ("mmjax train language_emoji:tiny --cpu_devices=8",),
    "encoder": (
        "mmjax train language_emoji:tiny --config.encoders.foreign.source=asset:minilm-l6",
    ),
    "plugins": (SNIPPET,),
    "app": (
        "python -m pip install mmjax[app]",
        "mmjax train language_emoji:tiny",
        "mmjax app runs/language_emoji_tiny --port 0",
    ),
    "share": ("mmjax train language_emoji:tiny", "mmjax export runs/language_emoji_tiny"),
}
SERVING = "serving http"  # the page is up
EXTRAS = "sklearn,synthesis"
LINE = re.compile(r"^First result: .*\n", re.MULTILINE)


def snippet(guide: str) -> str:
    """The first block of Python on a guide's page."""
    page = (GUIDES / f"{guide}.md").read_text("utf-8")
    match = re.search(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    if match is None:
        sys.exit(f"error: {guide}.md has no snippet")
    return match[1]


def install(place: Path) -> float:
    """Makes an environment with mmjax in it; returns the seconds that a reader waits for that."""
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", place, ROOT], check=True
    )
    (wheel,) = place.glob("mmjax-*.whl")
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "venv", place / "venv"], check=True)
    python = place / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", f"{wheel}[{EXTRAS}]"], check=True)
    return time.monotonic() - began


def first_result(guide: str, place: Path) -> list[tuple[str, float]]:
    """Runs a guide's first commands in a home of its own.

    Args:
      guide: its name.
      place: holds the environment.

    Returns:
      (command, seconds) of each.
    """
    taken: list[tuple[str, float]] = []
    with tempfile.TemporaryDirectory(dir=place) as home:
        paths = f"{place / 'venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
        kept = {k: v for k, v in os.environ.items() if k.startswith(("PIP_", "SSL_", "REQUESTS_"))}
        surroundings = {"HOME": home, "PATH": paths, "LANG": "C.UTF-8", **kept}
        for command in FIRST[guide]:
            line = ["python", "-c", snippet(guide)] if command == SNIPPET else command.split()
            began = time.monotonic()
            with subprocess.Popen(
                line, cwd=home, env=surroundings, stdout=PIPE, stderr=STDOUT, text=True
            ) as process:
                assert process.stdout is not None
                said, is_served = list[str](), False
                for text in process.stdout:
                    said.append(text)
                    if text.startswith(SERVING):
                        is_served = True
                        process.terminate()
                        break
            taken.append((command, time.monotonic() - began))
            if process.returncode and not is_served:
                print("".join(said)[-2000:], file=sys.stderr)
                sys.exit(f"error: {guide}: {command} ended with {process.returncode}")
            print(f"{guide}: {command}: {taken[-1][1]:.0f} s", flush=True)
    return taken


def sentence(installed: float, taken: Sequence[tuple[str, float]], cores: int, commit: str) -> str:
    """What a guide's page says."""
    steps = ", ".join(
        f"{command if command == SNIPPET else f'`{command}`'} {seconds:.0f} s"
        for command, seconds in taken
    )
    minutes = (installed + sum(seconds for _, seconds in taken)) / 60
    return (
        f"First result: {minutes:.1f} minutes from a bare Python on {cores} CPU core"
        f"{'s' if cores > 1 else ''} (installing {installed:.0f} s, {steps}, which fetches what it "
        f"needs; commit {commit}).\n"
    )


def write(guide: str, line: str) -> None:
    """Puts the line at the end of the page's introduction, in place of an older one."""
    path = GUIDES / f"{guide}.md"
    page = LINE.sub("", path.read_text("utf-8"))
    head, title, rest = page.partition("\n## ")
    path.write_text(f"{head.rstrip()}\n\n{line}{title}{rest}", "utf-8")


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.first_results",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("guides", nargs="*", metavar="GUIDE", help=f"of {', '.join(FIRST)}")
    parser.add_argument("--json", type=Path, help="write every figure here")
    parser.add_argument("--write", action="store_true", help="write the pages' lines")
    args = parser.parse_args()
    for guide in args.guides:
        if guide not in FIRST:
            parser.error(f"no guide {guide!r}; there are {', '.join(FIRST)}")
    head = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(head, check=True, capture_output=True, text=True).stdout.strip()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    figures: dict[str, object] = {"commit": commit, "cores": cores}
    with tempfile.TemporaryDirectory(prefix="mmjax-first-") as folder:
        figures["install"] = installed = install(Path(folder))
        print(f"installed in {installed:.0f} s", flush=True)
        for guide in args.guides or FIRST:
            figures[guide] = taken = first_result(guide, Path(folder))
            if args.write:
                write(guide, sentence(installed, taken, cores or 1, commit))
            if args.json:
                args.json.write_text(json.dumps(figures, indent=1), "utf-8")


if __name__ == "__main__":
    main()
