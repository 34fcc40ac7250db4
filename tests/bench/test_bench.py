"""The benchmarks run, check what they compare, and say when noise decides."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import (
    clip_forward,
    harness,
    instruct_buckets,
    loader,
    loss_max_batch,
    loss_memory,
    loss_ring,
    loss_time,
    plot,
    projection_fit,
)
from benchmarks.command import BENCHMARKS, parse
from benchmarks.harness import Comparison, Options
from mmjax.errors import MmjaxError

ROOT = Path(__file__).parents[2]
TINY = Options(batches=(64,), rounds=1)


def test_help_imports_no_jax():
    code = (
        "import sys\nsys.argv = ['bench', '--help']\n"
        "from benchmarks.command import parse\n"
        "try:\n    parse()\n"
        "except SystemExit:\n    pass\n"
        "sys.exit(', '.join({'jax', 'torch', 'matplotlib'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for name in BENCHMARKS:
        assert name in done.stdout
        assert importlib.util.find_spec(f"benchmarks.{name.replace('-', '_')}") is not None


def test_an_unknown_name_is_told(capsys):
    with pytest.raises(SystemExit):
        parse(["loss-tmie"])
    assert "there are loss-memory" in capsys.readouterr().err


def test_time_and_memory_are_measured_and_drawn(tmp_path):
    reports = [loss_memory.run(TINY), loss_time.run(TINY)]
    lines = reports[0].curves["temporary memory, MiB"]
    assert {len(points) for points in lines.values()} == {1}
    seconds = reports[1].samples["64"]["seconds"]
    assert set(seconds) == {"mmjax", "naive JAX", "mmjax, focal", "mmjax, HCL"}
    assert "skipped" in reports[1].grids[-1].title
    json.dumps([report.samples for report in reports])
    plot.draw(reports, tmp_path / "found.png")
    assert (tmp_path / "found.png").read_bytes().startswith(b"\x89PNG")


def test_the_ring_agrees_with_one_device():
    samples = loss_ring.run(TINY).samples
    assert list(samples) == ["1", "2", "4", "8"]
    assert max(found["error"] for found in samples.values()) < 1e-5
    assert samples["8"]["collectives"]["collective-permute"] > 0


def test_the_loader_is_timed():
    assert loader.run(Options(batches=(2,), rounds=1)).samples


def test_a_fit_is_timed_apart_from_its_compilation():
    samples = projection_fit.run(TINY).samples
    assert samples["rows"] == 64
    assert samples["first"] > max(samples["seconds"]["mmjax"]) / 2


def test_columns_are_counted_as_batches_hold_them():
    found = instruct_buckets.conversations(200, 50)
    total = instruct_buckets.count(found, 4)
    plan = found.plan(4, np.random.default_rng(0))
    texts = [found.batch(groups, 4)["text"] for groups in plan]
    assert total["buckets"] == sum(text["input_ids"].size for text in texts)
    assert total["shapes"] == len({(t["input_ids"].shape, t["labels"].shape) for t in texts})
    assert total["padded"] == total["rows"] * 512 == 4 * 512 * len(plan)
    # A first column that holds no word, and all that others see.
    assert total["real"] == sum(int(t["attention_mask"].sum()) for t in texts) + total["rows"]
    assert total["real"] < total["buckets"] < total["padded"]


def test_the_search_stops_at_its_bound():
    batch = loss_max_batch.run(Options(batches=(512,))).samples["batch"]
    assert set(batch.values()) == {512}
    for limit in (1, 7, 100, 1000):
        found = loss_max_batch.largest(lambda k, limit=limit: k <= limit, 10_000)
        assert 0.85 * limit <= found <= limit
    assert loss_max_batch.largest(lambda k: False, 10) == 0


FAKE_PEER = """#!{python}
import sys
import numpy as np

_, _, script, name, folder, pixels, out = sys.argv
assert script.endswith("clip_peer.py") and name == "jimm", sys.argv
np.save(out, np.load(pixels).sum(axis=1))
print("ready 0.5", flush=True)
for n, _ in enumerate(sys.stdin, 1):
    open(folder + "/calls", "w").write(str(n))
    print("done", flush=True)
"""


def test_a_peer_in_another_interpreter_works_when_it_is_called(tmp_path):
    python = tmp_path / "python"
    python.write_text(FAKE_PEER.format(python=sys.executable))
    python.chmod(0o755)
    np.save(tmp_path / "pixels.npy", np.ones((2, 3), np.float32))
    peer = clip_forward.Peer("jimm", str(python), tmp_path, tmp_path / "pixels.npy")
    assert peer.loading == 0.5
    np.testing.assert_array_equal(peer.embeddings, [3, 3])
    assert not (tmp_path / "calls").exists()
    peer()
    peer()
    peer.close()
    assert (tmp_path / "calls").read_text() == "2"
    python.write_text(f"#!{sys.executable}\n")
    with pytest.raises(MmjaxError, match="the peer jimm ended"):
        clip_forward.Peer("jimm", str(python), tmp_path, tmp_path / "pixels.npy")
    with pytest.raises(MmjaxError, match="No such file or directory"):
        clip_forward.Peer("jimm", str(tmp_path / "no"), tmp_path, tmp_path / "pixels.npy")


def test_peers_that_embed_otherwise_are_not_timed():
    peer = object.__new__(clip_forward.Peer)  # without a process
    peer.name, peer.embeddings = "jimm", np.ones((2, 3), np.float32)
    clip_forward._check_equal(np.ones((2, 3)), np.ones((2, 3)), [peer])
    with pytest.raises(MmjaxError, match="mmjax and jimm embed differently"):
        clip_forward._check_equal(np.zeros((2, 3)), np.zeros((2, 3)), [peer])


def test_peers_are_named_with_their_interpreters(capsys):
    args = parse(["clip-forward", "--peer-python", "jimm=a/python", "--peer-python", "flaxclip=b"])
    assert args.peer_python == {"jimm": "a/python", "flaxclip": "b"}
    with pytest.raises(SystemExit):
        parse(["--peer-python", "easydel=python"])
    assert "expected jimm=PYTHON or flaxclip=PYTHON" in capsys.readouterr().err


def test_noise_is_never_a_pass():
    steady = Comparison({"a": [1.0, 1.0, 1.0], "b": [2.0, 2.0, 2.0]}, [1.0, 1.01, 0.99])
    assert steady.conclusive
    assert steady.of("b").median == 0.5
    noisy = Comparison({"a": [1.0, 1.0, 1.0], "b": [2.0, 2.0, 2.0]}, [1.0, 1.3, 0.8])
    assert not noisy.conclusive
    assert all("inconclusive" in row[2] for row in noisy.grid("t").rows if row[2])


def test_sides_that_disagree_are_not_timed():
    harness.check_equal({"a": 1.0, "b": 1.00001})
    for wrong in (1.1, float("nan")):
        with pytest.raises(MmjaxError, match=r"do not agree.*a 1, b"):
            harness.check_equal({"a": 1.0, "b": wrong})
