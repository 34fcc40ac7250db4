"""One side of a comparison, in a process of its own: `apart` starts this file.

  PYTHON side.py < REQUESTS > ANSWERS

The first line says what to make, on which cores and with how many threads; every line "run" is a
run, and is answered with its seconds; "end" ends. It imports nothing but Python's own library: a
peer's interpreter may have neither mmjax nor JAX.
"""

import importlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
TICK = 1 / os.sysconf("SC_CLK_TCK")
_STAT = Path("/proc/stat")


def cores_busy(cores: list[int]) -> tuple[float, float] | None:
    """Seconds for which some cores have worked so far, and have been stolen from this machine.

    Args:
      cores: their numbers.

    Returns:
      (for anybody, stolen ones included; stolen by the machine's host), None where the system does
      not say.
    """
    if not _STAT.is_file():
        return None
    busy = stolen = 0.0
    names = {f"cpu{core}" for core in cores}
    for line in _STAT.read_text("ascii").splitlines():
        name, *counts = line.split()
        if name in names:
            # user nice system idle iowait irq softirq steal, the guest's are part of the user's
            ticks = [int(count) for count in counts[:8]]
            busy += TICK * (sum(ticks) - ticks[3] - ticks[4])
            stolen += TICK * ticks[7]
    return busy, stolen


def peak_memory() -> int:
    """Most resident memory of this process so far, in bytes.

    Where Linux tells the peak of the program alone, that is taken: `ru_maxrss` outlives exec, so a
    small side would show the size of whoever started it.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text("ascii").splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def measure(run: Callable[[], Any], cores: list[int]) -> dict[str, Any]:
    """Runs once for nothing and once by the clock.

    Whoever runs behind a side that has just returned gigabytes to the system would pay for its
    pages, and whoever waited long for its turn finds the caches cold.

    Args:
      run: returns when its work is done.
      cores: where this process may run.

    Returns:
      {"seconds", "own": CPU seconds of this process, "busy" and "stolen" as `cores_busy` counts
      them, None where it cannot, "value": what the timed run returned}.
    """
    run()
    before, own = cores_busy(cores), time.process_time()
    began = time.perf_counter()
    value = run()
    seconds = time.perf_counter() - began
    own, after = time.process_time() - own, cores_busy(cores)
    busy = stolen = None
    if before is not None and after is not None:
        busy, stolen = after[0] - before[0], after[1] - before[1]
    return {
        "seconds": seconds,
        "own": own,
        "busy": busy,
        "stolen": stolen,
        "value": plain(value),
    }


def plain(value: Any) -> Any:
    """A value for JSON: arrays of any library become lists."""
    return value.tolist() if hasattr(value, "tolist") else value


def thinned(array: Any, most: int = 4096) -> Any:
    """Some thousand numbers of an array, evenly spread: all of a layer's are too many to tell.

    Args:
      array: of any shape.
      most: about so many are told; an array of fewer is told whole.
    """
    flat = array.reshape(-1)
    return flat[:: max(1, len(flat) // most | 1)]


def pin(cores: list[int], threads: int) -> None:
    """Keeps this process to some cores; JAX's pool counts them when it starts."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
    # A side that takes the whole device would leave none to the other.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


def make(what: str, arguments: Mapping[str, Any]) -> tuple[Callable[[], Any], dict[str, Any]]:
    """The side's run, and facts about it.

    Args:
      what: "package.module:function"; it returns the run, or (the run, facts).
      arguments: of the function.

    Returns:
      Both.
    """
    sys.path.append(str(HERE.parent))  # behind all that the interpreter has itself
    module, _, function = what.partition(":")
    made = getattr(importlib.import_module(module), function)(**arguments)
    return made if isinstance(made, tuple) else (made, {})


def serve() -> None:
    """Makes the side, answers, and runs once a line."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is no answer

    def answer(**what: Any) -> None:
        print(json.dumps(what), file=answers, flush=True)

    request = json.loads(sys.stdin.readline())
    pin(request["cores"], request["threads"])
    try:
        run, facts = make(request["make"], request["arguments"])
    except ModuleNotFoundError as error:
        answer(missing=error.name)
        return
    answer(value=plain(run()), facts=facts, cores=sorted(_affinity(request["cores"])))
    for line in sys.stdin:
        if line.strip() == "end":
            answer(peak=peak_memory())
            return
        answer(**measure(run, request["cores"]))


def _affinity(asked: list[int]) -> set[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(asked)


if __name__ == "__main__":
    serve()
