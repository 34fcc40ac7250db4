"""Devices that are not here, by their makers' own compilers, and what these say of a program."""

import contextlib
import importlib.util
import os
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.experimental import topologies

from mmjax.errors import MmjaxError, first_line
from mmjax.plan.chips import Topology
from mmjax.plan.cost import Cost
from mmjax.plan.hlo import account
from mmjax.plan.programs import PlannedProgram

MISSING = (
    "libtpu is not installed, so nothing was compiled: figures are arithmetic on shapes alone; "
    "pip install 'mmjax[plan]' brings Google's compiler (it needs no TPU)"
)
_OUT = re.compile(r"Used ([\d.]+)([KMG]) of|([\d.]+)([KMG])\)? exceeds")
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


@dataclass(frozen=True)
class Memory:
    """Bytes on one device.

    Attributes:
      arguments: of what is given to the program.
      temporaries: beside arguments and results.
      peak: of HBM, the most at any time.
    """

    arguments: int
    temporaries: int
    peak: int


@dataclass(frozen=True)
class Compiled:
    """What a compiler made of a program.

    Attributes:
      memory: of one device; None where the compiler refused.
      cost: of one device; None likewise.
      seconds: that compiling took.
      refusal: the compiler's own sentence where it made nothing, else "".
      wanted: bytes that it would take, where the refusal says so.
      fails: whether it was refused for another reason than memory.
    """

    memory: Memory | None
    cost: Cost | None
    seconds: float
    refusal: str = ""
    wanted: int = 0
    fails: bool = False


def available() -> bool:
    """Whether Google's compiler is installed."""
    return getattr(importlib.util.find_spec("libtpu"), "origin", None) is not None


def describe_devices(topology: Topology) -> np.ndarray:
    """The described devices.

    Args:
      topology: a TPU's.

    Returns:
      Devices that programs can be compiled for, and nothing else.

    Raises:
      MmjaxError: the compiler does not know such a slice.
    """
    # Several processes may compile at once; the other settings silence questions about the machine.
    for name, value in {
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-8",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_WORKER_ID": "0",
    }.items():
        os.environ.setdefault(name, value)
    name = f"{topology.chip.name}:{topology.shape}"
    options = {"num_slices": topology.slices} if topology.slices > 1 else {}
    try:
        with _quiet():
            description = topologies.get_topology_desc(
                platform="tpu", topology_name=name, **options
            )
    except Exception as error:  # jaxlib's own types
        raise MmjaxError(
            f"Google's compiler does not know the topology {name}: {first_line(error)}"
        ) from error
    return np.array(description.devices)


def compile_program(program: PlannedProgram) -> Compiled:
    """Compiles a program for the devices of its arguments.

    Args:
      program: of `mmjax.plan.programs`.

    Returns:
      Its memory and its cost, or the compiler's refusal: for want of memory, or for an operation
      that these devices do not have.
    """
    began = time.monotonic()
    try:
        with _quiet():
            made: Any = program.trace().lower().compile()
    except jax.errors.JaxRuntimeError as error:
        text = str(error)
        match = _OUT.search(text)
        size, unit = (match[1] or match[3], match[2] or match[4]) if match else ("0", "K")
        wanted = int(float(size) * _UNITS[unit])
        sentence = " ".join(text.split())[:240]
        memory = "RESOURCE_EXHAUSTED" in text or "memory" in text.lower()
        return Compiled(None, None, time.monotonic() - began, sentence, wanted, not memory)
    seconds = time.monotonic() - began
    stats = made.memory_analysis()
    arguments, temporaries = stats.argument_size_in_bytes, stats.temp_size_in_bytes
    results = max(stats.output_size_in_bytes - stats.alias_size_in_bytes, 0)
    # What is copied ahead into VMEM counts in the compiler's own peak too, up to all of VMEM.
    peak = min(stats.peak_memory_in_bytes, arguments + temporaries + results)
    memory = Memory(arguments, temporaries, peak)
    return Compiled(memory, account(made.as_text()), seconds)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps what the compiler's C++ writes off the terminal."""
    sys.stderr.flush()
    try:
        kept = os.dup(2)
    except OSError:
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
