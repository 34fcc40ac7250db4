"""Processes x devices, and how many of them share a model: the same figures as one process."""

import json
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from tests.run import layouts

ROOT = Path(__file__).parents[2]


def together(processes: int, folder: Path) -> list[dict[str, layouts.Found]]:
    """What each of several processes finds, which share eight devices."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    settings = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(processes)}

    def process(number: int) -> subprocess.CompletedProcess[str]:
        own = {"JAX_PROCESS_ID": str(number), "PYTHONPATH": str(ROOT)}
        return subprocess.run(
            [sys.executable, "-m", "tests.run.layouts", str(8 // processes), str(folder)],
            env=os.environ | settings | own,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=900,
        )

    with ThreadPoolExecutor(processes) as pool:
        done = list(pool.map(process, range(processes)))
    failed = [one.stderr[-3000:] for one in done if one.returncode]
    assert not failed, "\n".join(failed)
    return [json.loads((folder / f"process_{n}.json").read_text()) for n in range(processes)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> dict[str, layouts.Found]:
    """What one process with eight devices finds, by the size of the model axis."""
    (found,) = together(1, tmp_path_factory.mktemp("alone"))
    return found


@pytest.mark.slow
def test_one_process_finds_the_same_whatever_the_mesh(alone):
    assert list(alone) == [str(model) for model in layouts.MODELS]
    compared = {"instruct": "24", "distill_mse": "4", "domain": "24"}
    for what, model in ((what, model) for what, models in compared.items() for model in models):
        assert_allclose(alone[model][what], alone["1"][what], 1e-5)
        assert len(set(alone["1"][what])) == layouts.STEPS  # something is learned
        assert np.isfinite(alone["1"][what]).all()


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4, 8])
def test_several_processes_find_what_one_does(processes, alone, tmp_path):
    first, *others = together(processes, tmp_path)
    assert all(found == first for found in others)
    for model, found in alone.items():
        assert found.keys() == first[model].keys()
        for what, figures in found.items():
            said = f"model={model}: {what}"
            assert_allclose(first[model][what], figures, 1e-5, 1e-6, err_msg=said)
