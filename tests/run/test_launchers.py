"""Whoever starts several processes is recognised by what it leaves in the environment."""

import pytest

from mmjax.errors import MmjaxError
from mmjax.processes.launchers import Launch, find_launch

SLURM = {"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4", "SLURM_NTASKS": "4"}
OMPI = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}
TPU = {"TPU_WORKER_ID": "2", "TPU_WORKER_HOSTNAMES": "a,b,c,d"}
JOBSET = {
    "JOBSET_NAME": "mine",
    "REPLICATED_JOB_NAME": "workers",
    "JOB_COMPLETION_INDEX": "1",
    "JOB_INDEX": "1",
    "PODS_PER_JOB": "2",
    "JAX_NUM_PROCESSES": "4",
}
DIRECT = {
    "JAX_COORDINATOR_ADDRESS": "localhost:1234",
    "JAX_NUM_PROCESSES": "2",
    "JAX_PROCESS_ID": "1",
}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        (SLURM, Launch("Slurm", None, 4, 3)),
        # A shell within an allocation runs one process, whatever the allocation's size.
        ({"SLURM_NTASKS": "4", "SLURM_JOB_ID": "1"}, None),
        ({**SLURM, "SLURM_STEP_NUM_TASKS": "1"}, None),
        ({**OMPI, "OMPI_MCA_orte_hnp_uri": "1.0;tcp://10.0.0.1:5"}, Launch("Open MPI", None, 2, 1)),
        (
            {**OMPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "2"},
            Launch("Open MPI", "localhost:8476", 2, 1),
        ),
        (TPU, Launch("TPU pod", None, 4, 2)),
        ({**TPU, "TPU_WORKER_HOSTNAMES": "localhost"}, None),
        (JOBSET, Launch("JobSet", "mine-workers-0-0.mine:8476", 4, 3)),
        ({**JOBSET, **TPU}, Launch("TPU pod", None, 4, 2)),
        (DIRECT, Launch("environment", "localhost:1234", 2, 1)),
        ({**DIRECT, **SLURM}, Launch("environment", "localhost:1234", 2, 1)),
    ],
)
def test_what_a_launcher_leaves_is_read(environment, expected):
    assert find_launch(environment) == expected
    assert find_launch(environment, asked=False) is None


def test_flags_come_before_all_else():
    assert find_launch(SLURM, "host:99", 8, 7) == Launch("flags", "host:99", 8, 7)


def test_a_run_that_is_to_have_several_processes_asks_jax_where_nothing_is_said():
    found = find_launch({}, asked=True)
    assert found is not None
    assert (found.coordinator, found.count, found.index) == (None, None, None)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (({}, "host:99"), "go together"),
        (({}, "host:99", 2, 2), "process 2 of 2"),
        (({}, "host", 2, 1), "no HOST:PORT"),
        (({**DIRECT, "JAX_PROCESS_ID": "one"},), "'one'"),
        ((OMPI,), "mpirun -x"),
    ],
)
def test_what_does_not_go_together_is_told(arguments, words):
    with pytest.raises(MmjaxError, match=words):
        find_launch(*arguments)
