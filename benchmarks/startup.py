"""How long until something happens? Every command is a fresh process."""

import os
import statistics
import subprocess
import sys
import tempfile
import time

from benchmarks.harness import Grid, Options, Report, ratio
from mmjax.errors import MmjaxError
from mmjax.progress import track

COMPILE = """
import sys
import jax, jax.numpy as jnp
from mmjax.losses import contrastive
jax.config.update("jax_compilation_cache_dir", sys.argv[1])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
tower = jnp.ones((512, 64))
step = jax.jit(jax.value_and_grad(lambda x, y: contrastive.info_nce(x, y, 1.0)[0]))
jax.block_until_ready(step(tower, tower))
"""


def run(options: Options) -> Report:
    """Times imports, --help, and a first step with an empty and with a filled compile cache.

    Args:
      options: rounds.

    Returns:
      Seconds of each, and the ratios that matter.
    """
    commands = {
        "import jax": ["-c", "import jax"],
        "import mmjax": ["-c", "import mmjax"],
        "mmjax.main --help": ["-m", "mmjax.main", "--help"],
        "mmjax.bench --help": ["-m", "mmjax.bench", "--help"],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    first, second = "first step, empty cache", "first step, filled cache"
    seconds |= {first: [], second: []}
    for _ in track(range(options.num_rounds), "starting processes"):
        for name, arguments in commands.items():
            seconds[name].append(_timed(arguments))
        with tempfile.TemporaryDirectory() as cache:
            for name in (first, second):
                seconds[name].append(_timed(["-c", COMPILE, cache]))
    rows = [(name, f"{statistics.median(s):.2f}", "") for name, s in seconds.items()]
    for top, bottom in (("import mmjax", "import jax"), (second, first)):
        rows.append((f"{top} / {bottom}", "", str(ratio(seconds[top], seconds[bottom]))))
    grid = Grid("Start-up", ("command", "median seconds", "ratio [90 % interval]"), tuple(rows))
    return Report([grid], seconds)


def _timed(arguments: list[str]) -> float:
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *arguments], env=os.environ, capture_output=True, text=True, check=False
    )
    # absl's --help ends with status 1.
    if done.returncode not in (0, 1) or "Traceback" in done.stderr:
        raise MmjaxError(f"start-up: {' '.join(arguments)[:60]} failed: {done.stderr[-500:]}")
    return time.perf_counter() - began
