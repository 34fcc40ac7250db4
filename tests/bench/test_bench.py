"""The benchmarks run, check what they compare, and say when noise decides."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import (
    adapter_kinds,
    gradient_cache,
    instruct_buckets,
    loader,
    loss_forms,
    loss_max_batch,
    loss_memory,
    loss_ring,
    loss_time,
    plot,
    side,
    synthesis_scale,
    synthesis_stream,
    training,
)
from benchmarks.command import BENCHMARKS, parse
from benchmarks.harness import Options
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


def test_each_side_of_a_training_step_is_a_recipe_of_its_own():
    kinds = adapter_kinds.changed(4)
    stages = {name: training.read(adapter_kinds.CONFIG, own).stages for name, own in kinds.items()}
    assert not stages[adapter_kinds.FROZEN][0].adapters
    told = {name: (*stage[0].adapters.values(),) for name, stage in stages.items()}
    assert all(len(own) == 2 for name, own in told.items() if name != adapter_kinds.FROZEN)
    assert len({str(own) for own in told.values()}) == len(kinds)
    (stage,) = training.read(gradient_cache.CONFIG, gradient_cache.changed(32, 2)).stages
    assert (stage.train.batch_size, stage.train.accumulate) == (32, 2)
    # A recipe that stands on another: the other is what is trained.
    (base,) = training.read("configs/domain_emoji.py", {"train": {"steps": 3}}).stages
    assert (base.task, base.train.steps) == ("contrastive", 3)
    with pytest.raises(MmjaxError, match=r"no recipe configs/nothing\.py"):
        training.read("configs/nothing.py")


def test_memory_is_measured_and_drawn(tmp_path):
    report = loss_memory.run(TINY)
    lines = report.curves["temporary memory, MiB"]
    assert {len(points) for points in lines.values()} == {1}
    json.dumps(report.samples)
    plot.draw([report], tmp_path / "found.png")
    assert (tmp_path / "found.png").read_bytes().startswith(b"\x89PNG")


def test_forms_of_the_loss_are_sides_of_their_own_that_agree():
    wanted = loss_time.sides(64, torch=True)
    assert [side.name for side in wanted][:2] == ["mmjax", "naive JAX"]
    assert {side.make for side in wanted if "torch" in side.make} == {
        "benchmarks.peers.torch_loss:plain",
        "benchmarks.peers.torch_loss:open_clip",
    }
    values = {}
    for one in wanted:
        if "torch" not in one.make:
            run, _ = side.make(one.make, one.arguments)
            values[one.name] = run()
    loss_time.check(values)
    weighted = [values[name] for name in loss_forms.WEIGHTED]
    assert all(abs(value - values["mmjax"]) > 1e-3 for value in weighted)
    with pytest.raises(MmjaxError, match="naive JAX 9"):
        loss_time.check({**values, "naive JAX": 9.0})


def test_the_ring_agrees_with_one_device():
    samples = loss_ring.run(TINY).samples
    assert list(samples) == ["1", "2", "4", "8"]
    assert max(found["error"] for found in samples.values()) < 1e-5
    assert samples["8"]["collectives"]["collective-permute"] > 0


def test_the_loader_is_timed():
    assert loader.run(Options(batches=(2,), rounds=1)).samples


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


def test_peers_are_named_with_their_interpreters(capsys):
    args = parse(["clip-forward", "--peer-python", "jimm=a/python", "--peer-python", "flaxclip=b"])
    assert args.peer_python == {"jimm": "a/python", "flaxclip": "b"}
    with pytest.raises(SystemExit):
        parse(["--peer-python", "easydel=python"])
    assert "expected jimm=PYTHON or flaxclip=PYTHON" in capsys.readouterr().err


def test_a_synthesis_at_scale_counts_llama_3s_own_weights():
    size = synthesis_scale.weights()
    # Meta's 8,030,261,248, and 64 more words in and out.
    assert size["language"] + size["embeddings"] == 8_030_261_248 + 2 * 64 * 4096
    work = synthesis_scale.stages(size)
    once, each = work["filter, examples read once"], work["filter, examples read each time"]
    assert each.tokens / once.tokens == pytest.approx((1700 + 250) / 250)
    # The paper's 62.5 A100-hours, at an H100's peak and the same share of it, are of this order.
    found = sum(
        synthesis_scale.hours(work[name], synthesis_scale.CHIPS["H100"], size)
        for name in ("generate: read", "generate: write", "filter, examples read each time")
    )
    assert 62.5 * 312 / 989 < 2 * found < 4 * 62.5 * 312 / 989


def test_streams_keep_their_records_and_their_memory():
    work = synthesis_stream.run(Options(batches=(100, 1000), threads=1)).samples
    for few, many in work.values():
        assert (few["count"], many["count"]) == (100, 1000)
        assert 0 < many["peak"] < 1.2 * few["peak"] < 2**30
