"""Hundreds of stages in one process: descriptors and threads stay as many as they were.

  ulimit -n 256; python -m tools.many_stages [--stages 300] [--recipe language_emoji:tiny]

Trains the recipe with as many seeds as give that many stages, looks at /proc while it trains, and
prints the most that was open in each tenth of the stages. Fails when the last tenth holds more than
the second (the first loads libraries). Linux; the recipe's assets are fetched where they lack.
"""

import argparse
import os
import sys
import tempfile
import threading
from collections import defaultdict
from pathlib import Path

SLACK = 4  # a file of the moment: a checkpoint being written, a log


def main() -> int:
    """Trains, watches and says what was open."""
    parser = argparse.ArgumentParser(prog="tools.many_stages")
    parser.add_argument("--stages", type=int, default=300)
    parser.add_argument("--recipe", default="language_emoji:tiny")
    options = parser.parse_args()

    import mmjax
    from mmjax.commands import recipes
    from mmjax.specs.build import as_dict
    from mmjax.specs.recipe import resolve_recipe

    a_seed = len(
        resolve_recipe(as_dict(recipes.load_recipe(options.recipe, {"seeds": (0,)}))).stages
    )
    seeds = tuple(range(max(2, options.stages // a_seed)))
    most: dict[int, tuple[int, int]] = defaultdict(lambda: (0, 0))
    ended = threading.Event()
    with tempfile.TemporaryDirectory() as folder:

        def watch() -> None:
            while not ended.wait(0.2):
                done = len(list(Path(folder).glob("seed_*/*/adapter")))
                tenth = min(9, 10 * done // (len(seeds) * a_seed))
                files, threads = most[tenth]
                most[tenth] = (
                    max(files, len(os.listdir("/proc/self/fd"))),
                    max(threads, len(os.listdir("/proc/self/task"))),
                )

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        mmjax.train(options.recipe, folder, seeds=seeds)
        ended.set()
        watcher.join()
    print(f"{len(seeds) * a_seed} stages; most at once, by tenth of the stages")
    for tenth, (files, threads) in sorted(most.items()):
        print(f"  {tenth + 1:2d}: {files} descriptors, {threads} threads")
    early, late = most[1], most[9]
    grown = [
        name
        for name, a, b in zip(("descriptors", "threads"), early, late, strict=True)
        if b > a + SLACK
    ]
    if grown:
        print(f"error: {' and '.join(grown)} grow", file=sys.stderr)
    return bool(grown)


if __name__ == "__main__":
    sys.exit(main())
