"""How JAX starts in a process: memory, devices, other processes of its run, compiled programs."""

import os
import socket
import sys
from pathlib import Path

import jax
from jax._src import distributed as jax_distributed  # the coordinator's client has no public name

from mmjax.processes import allocator, launchers, peers

PEER_TIMEOUT = 30.0  # seconds


def set_up(
    cpu_devices: int,
    launch: launchers.Launch | None,
    compiled: Path,
    peer_timeout: float = PEER_TIMEOUT,
) -> None:
    """Settles JAX's devices, processes and compile cache, before anything else asks for a device.

    Args:
      cpu_devices: emulate so many devices on the CPU; 0 takes what there is.
      launch: how to join the other processes of this run; None where it is alone.
      compiled: folder of compiled programs; a second start compiles nothing that the first one did.
      peer_timeout: see `join_processes`.
    """
    allocator.keep_freed_memory()
    if cpu_devices:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", cpu_devices)
    if launch is not None:
        join_processes(launch, peer_timeout)
    # What JAX was told in the environment stays.
    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str(compiled))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def join_processes(
    launch: launchers.Launch | None = None, peer_timeout: float = PEER_TIMEOUT
) -> None:
    """Joins the processes of a run, before anything else asks JAX for a device.

    Args:
      launch: who started them; JAX itself finds what it does not say. None reads the environment.
      peer_timeout: seconds that processes wait for each other, and without a sign of life after
        which one is lost; this process then ends with exit code `peers.LOST`.
    """
    if launch is None:
        launch = launchers.find_launch(os.environ, asked=True)
        assert launch is not None  # several processes were asked for
    # On CPUs two programs at once may meet their peers' in another order; Gloo then gives up.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    # JAX's own notifier would swallow SIGTERM, which `mmjax.processes.interrupts` answers.
    jax.config.update("jax_enable_preemption_service", False)
    index, count = (None if x is None else str(x) for x in (launch.index, launch.count))
    timer = peers.waiting(index, count, peer_timeout)
    direct = launch.coordinator is not None
    jax.distributed.initialize(
        coordinator_address=launch.coordinator,
        num_processes=launch.count if direct else None,
        process_id=launch.index if direct else None,
        # Longer than the timer's: JAX ends the process in a traceback.
        initialization_timeout=round(peer_timeout) + 60,
    )
    timer.cancel()
    joined = jax_distributed.global_state
    assert joined.num_processes is not None
    address, number = joined.coordinator_address, joined.process_id
    peers.watch(joined.client, address, number, joined.num_processes, peer_timeout)
    # Programs for several CPU processes do not survive the cache: Gloo aborts with a "distributed
    # collective mismatch".
    if joined.num_processes > 1 and jax.default_backend() == "cpu":
        jax.config.update("jax_enable_compilation_cache", False)
    print(
        f"process {joined.process_id} of {joined.num_processes} ({launch.kind}) on "
        f"{socket.gethostname()}, pid {os.getpid()}: {jax.local_device_count()} of "
        f"{jax.device_count()} devices ({jax.devices()[0].device_kind})",
        file=sys.stderr,
        flush=True,
    )
