"""Two processes with four devices each compute what one process does."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

WORKER = """
import sys

import jax
import numpy as np

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", int(sys.argv[1]))

from mmjax import sharding
from mmjax.processes import starting
from mmjax.losses import contrastive
from mmjax.losses.weighting import Focal

if len(sys.argv) > 3:
    starting.join_processes()
mesh = sharding.make_mesh()
rng = np.random.default_rng(0)
towers = rng.normal(size=(2, 48, 16)).astype(np.float32)
towers /= np.linalg.norm(towers, axis=-1, keepdims=True)
batch = {"image": towers[0], "text": towers[1], "ids": np.arange(48) // 2}
batch = sharding.place_batch(batch, mesh)


def loss(towers, scale, ids):
    return contrastive.info_nce(
        towers["image"], towers["text"], scale, positives=ids, hard=Focal(1.0), block=4, mesh=mesh
    )[0]


ids = batch.pop("ids")
value, (by_towers, by_scale) = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(
    batch, np.float32(3.0), ids
)
local = {
    name: np.concatenate([s.data for s in sorted(x.addressable_shards, key=lambda s: s.index)])
    for name, x in by_towers.items()
}
np.savez(sys.argv[2] + f"/{jax.process_index()}.npz", value=value, by_scale=by_scale, **local)
"""


def start(arguments, **environment):
    root = Path(__file__).parents[2]
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, *arguments],
        env=os.environ | {"PYTHONPATH": str(root), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait(children):
    try:
        for child in children:
            output, _ = child.communicate(timeout=600)
            assert child.returncode == 0, output
    finally:
        for child in children:
            child.kill()


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    peers = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
    children = [
        start(["4", str(two), "together"], JAX_PROCESS_ID=str(i), **peers) for i in range(2)
    ]
    wait([*children, start(["8", str(one)])])
    alone = np.load(one / "0.npz")
    halves = [np.load(two / f"{i}.npz") for i in range(2)]
    np.testing.assert_array_equal(halves[0]["value"], halves[1]["value"])
    for name, wanted in alone.items():
        parts = [half[name] for half in halves]
        found = np.concatenate(parts) if wanted.ndim else parts[0]
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-7)
