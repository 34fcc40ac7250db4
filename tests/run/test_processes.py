"""Two real processes that find each other over the loopback interface."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

LAUNCH = Path(__file__).parents[2] / "launch" / "local_processes.sh"


@pytest.mark.slow
def test_two_processes_train_as_one_does(toy, straight, tmp_path):
    workdir = tmp_path / "run"
    command = [str(LAUNCH), "2", "--config", str(toy.recipe), "--workdir", str(workdir)]
    log = tmp_path / "log"
    with log.open("w") as output:
        child = subprocess.Popen(
            ["bash", *command],
            env=toy.environment(PYTHON=sys.executable, TMPDIR=str(tmp_path)),
            cwd=toy.folder,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = child.wait(240)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            code = child.wait()
    assert code == 0, log.read_text()[-4000:]
    assert '"processes": "2"' in (workdir / "env.json").read_text()
    assert "recovery ratio" in log.read_text()
    for stage in ("base", "linear", "language"):
        together = np.array(toy.losses(workdir, stage))
        assert_allclose(together, np.array(toy.losses(straight, stage)), rtol=1e-5)
