"""kill -9 at twenty moments that a seed draws: the same parameters in the end, bit by bit."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.run.conftest import changed

ROOT = Path(__file__).parents[2]
SAVE_EVERY = 3


def killed(config, folder, cache, seed=0, kills=20, hours=()):
    asked = {"config": config, "folder": str(folder), "cache": str(cache), "seed": seed}
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.killing"],
        input=repr({**asked, "kills": kills, "hours": hours}),
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "MMJAX_OFFLINE": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=3000,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    print(done.stdout)
    return json.loads(done.stdout)


def check(found, kills):
    assert found["moments"] > 50
    assert len(found["runs"]) == kills
    assert len({run["at"] for run in found["runs"]}) > kills / 2
    for run in found["runs"]:
        assert run["killed"], run
        assert run["ended"], run
        assert run["same"], run
        # A save is written while training goes on: the one before it is whole for certain.
        assert 0 <= run["repeated"] <= 2 * SAVE_EVERY, run


@pytest.mark.faults
@pytest.mark.parametrize("seed", [0])
def test_a_language_run(seed, toy, tmp_path):
    found = killed(toy.config, tmp_path, tmp_path / "cache", seed, hours=(24, -24))
    check(found, 20)
    assert len(found["stages"]) == 3
    assert all(jump["ended"] and jump["same"] for jump in found["clock"]), found["clock"]


@pytest.mark.faults
def test_an_instruct_run(instruct_recipe, tmp_path):
    train = {"train.steps": 9, "train.eval_every": 9, "train.save_every": SAVE_EVERY}
    small = changed(instruct_recipe, {**train, "mesh.data": 1, "mesh.model": 1, "evals": ("vqa",)})
    small["variants"] = {}
    found = killed(small, tmp_path, tmp_path / "cache", 1)
    check(found, 20)
    assert found["steps"] == 9
