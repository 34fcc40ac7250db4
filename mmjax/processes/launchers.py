"""Who started this process, and with how many others: flags, Slurm, Open MPI, JobSet, a TPU pod.

A single process needs nothing and finds nothing here. JAX itself reads the addresses of Slurm, Open
MPI and TPU pods; a JobSet's and flags' are read here.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from mmjax.errors import MmjaxError

PORT = 8476  # of the coordinator, where a launcher names none
_DIRECT = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


@dataclass(frozen=True)
class Launch:
    """How the processes of a run find each other.

    Attributes:
      kind: what started them, for the log.
      coordinator: HOST:PORT of process 0; None where JAX finds it.
      count: how many there are; None where JAX finds it.
      index: number of this process; None where JAX finds it.
    """

    kind: str
    coordinator: str | None = None
    count: int | None = None
    index: int | None = None


def find_launch(
    environment: Mapping[str, str],
    coordinator: str | None = None,
    count: int | None = None,
    index: int | None = None,
    asked: bool | None = None,
) -> Launch | None:
    """What this process is part of.

    Args:
      environment: its variables.
      coordinator: of the flags, which come first; with the next two.
      count: likewise.
      index: likewise.
      asked: True insists on several processes, False on one; None sees what the launcher says.

    Returns:
      The launch; None for a single process.

    Raises:
      MmjaxError: some of the flags or variables without the others, or numbers that do not go
        together.
    """
    if asked is False:
        return None
    flags = (coordinator, count, index)
    if any(x is not None for x in flags):
        if None in flags:
            raise MmjaxError(
                "--coordinator, --num_processes and --process_id go together; give all three, or "
                "leave them to the launcher"
            )
        return _checked(Launch("flags", coordinator, count, index))
    direct = [environment.get(name) for name in _DIRECT]
    if None not in direct:
        launch = Launch("environment", direct[0], _number(direct[1]), _number(direct[2]))
        return _checked(launch) if asked or launch.count != 1 else None
    if "JOBSET_NAME" in environment and "JOB_COMPLETION_INDEX" in environment:
        launch = _jobset(environment)
        # On TPUs GKE itself says who is who.
        if launch is not None and "TPU_WORKER_ID" not in environment:
            return _checked(launch)
    steps = environment.get("SLURM_STEP_NUM_TASKS", "1")
    if "SLURM_PROCID" in environment and steps.isdigit() and int(steps) > 1:
        return Launch("Slurm", None, int(steps), _number(environment["SLURM_PROCID"]))
    ranks = environment.get("OMPI_COMM_WORLD_SIZE", "1")
    if ranks.isdigit() and int(ranks) > 1:
        return _open_mpi(environment, int(ranks))
    hosts = environment.get("TPU_PROCESS_ADDRESSES") or environment.get("TPU_WORKER_HOSTNAMES", "")
    if "TPU_WORKER_ID" in environment and "," in hosts:
        return Launch("TPU pod", None, hosts.count(",") + 1, _number(environment["TPU_WORKER_ID"]))
    return Launch("TPU metadata or another launcher that JAX knows") if asked else None


def _jobset(environment: Mapping[str, str]) -> Launch | None:
    """A JobSet of indexed jobs: its pods' names are known before they are."""
    name, job = environment["JOBSET_NAME"], environment.get("REPLICATED_JOB_NAME", "workers")
    count = environment.get("JAX_NUM_PROCESSES")
    if count is None:
        return None
    # One job a slice, JOB_INDEX its number; its pods are numbered within it.
    each = _number(environment.get("PODS_PER_JOB", count))
    index = _number(environment.get("JOB_INDEX", "0")) * each
    index += _number(environment["JOB_COMPLETION_INDEX"])
    return Launch("JobSet", f"{name}-{job}-0-0.{name}:{PORT}", _number(count), index)


def _open_mpi(environment: Mapping[str, str], count: int) -> Launch:
    """Open MPI 4 says where its daemon is, which JAX reads; version 5 does not."""
    index = _number(environment.get("OMPI_COMM_WORLD_RANK", ""))
    if "OMPI_MCA_orte_hnp_uri" in environment:
        return Launch("Open MPI", None, count, index)
    if environment.get("OMPI_COMM_WORLD_LOCAL_SIZE") == str(count):
        return Launch("Open MPI", f"localhost:{PORT}", count, index)
    raise MmjaxError(
        "Open MPI does not say where its first process runs; pass it on with "
        "mpirun -x JAX_COORDINATOR_ADDRESS=HOST:PORT and --num_processes, --process_id"
    )


def _number(text: str | None) -> int:
    if text is None or not text.isdigit():
        raise MmjaxError(
            f"the launcher's environment says {text!r} where a number of processes is expected"
        )
    return int(text)


def _checked(launch: Launch) -> Launch | None:
    count, index, place = launch.count or 0, launch.index or 0, launch.coordinator or ""
    if count < 1 or not 0 <= index < count:
        raise MmjaxError(
            f"process {index} of {count} ({launch.kind}) does not exist; processes are numbered "
            "from 0"
        )
    host, _, port = place.rpartition(":")
    if not host or not port.isdigit():
        raise MmjaxError(
            f"the coordinator {place!r} ({launch.kind}) is no HOST:PORT, e.g. node0:{PORT}"
        )
    return launch
