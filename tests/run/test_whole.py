"""One whole run: what it leaves behind, and that a second start does nothing."""

import json

import pytest

from mmjax import checkpoint
from mmjax.data.library import Library
from mmjax.report.results import Results


def test_what_a_run_leaves(finished, toy):
    assert {p.name for p in finished.iterdir()} == {
        "config.json",
        "env.json",
        "results.json",
        "report.html",
        "report.md",
        "seed_0",
    }
    for stage in ("base", "linear", "language"):
        folder = finished / "seed_0" / stage
        assert {p.name for p in folder.iterdir()} == {
            "adapter",
            "checkpoints",
            "done.json",
            "metrics.jsonl",
            "pace.jsonl",
            "params.txt",
        }
        assert [step for step, _ in toy.losses(finished, stage)] == list(range(1, 13))


def test_the_results_hold_all_systems(finished):
    results = Results.load(finished / "results.json")
    classes = results.classes
    assert classes is not None
    right, asked = sum(classes.right[0]), sum(classes.asked[0])
    assert right / asked == pytest.approx(results.systems["adapted"]["zeroshot_acc"][0])
    assert list(results.systems) == ["ceiling", "floor", "linear", "adapted"]
    for system, metrics in results.systems.items():
        assert 0 <= metrics["t2i_R@1"][0] <= metrics["t2i_R@10"][0] <= 1
        assert 0 <= metrics["zeroshot_acc"][0] <= 1
        assert ("recovery_t2i_mR" in metrics) == (system in ("linear", "adapted"))
    assert results.counts == {"train": [22], "val": [6], "test": [12]}
    report = (finished / "report.md").read_text()
    assert "ceiling: base, en queries" in report
    assert results.command in report


def test_the_card_names_everything_below_it(finished, toy):
    card, base = toy.card(finished, "language"), toy.card(finished, "base")
    assert set(card["encoders"]) == {"image", "text", "foreign"}
    encoder = json.loads((toy.folder / "image" / "config.json").read_text())
    assert encoder["model_type"] == card["encoders"]["image"]["family"] == "dinov2"
    for identity in card["encoders"].values():
        assert len(identity["fingerprint"]) == len(identity["preprocess_fingerprint"]) == 64
    assert card["encoders"]["image"] == base["encoders"]["image"]
    assert card["base"] == {
        "path": "../../base/adapter",
        "fingerprint": base["trainable"]["fingerprint"],
    }
    assert card["data"]["name"] == "pairs"
    assert card["versions"].keys() >= {"mmjax", "jax", "flax", "numpy"}
    assert card["step"] in (6, 12)
    assert card["trainable"]["count"] < 10_000


def test_a_second_start_trains_and_loads_nothing(finished, toy, start, monkeypatch, capsys):
    def refuse(*_):
        pytest.fail("a finished run loads encoders again")

    monkeypatch.setattr(Library, "encoder", refuse)
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("*") if p.is_file()}
    start(toy, finished)
    assert {p: p.stat().st_mtime_ns for p in finished.rglob("*") if p.is_file()} == before
    shown = capsys.readouterr().out
    assert "is complete" in shown
    assert "recovery ratio" in shown


def test_mesh_and_switches_may_change_but_nothing_else(finished, toy, start):
    start(toy, finished, {"mesh.data": 8, "checkpoint.allow_other_encoder": True})
    with pytest.raises(
        checkpoint.MmjaxError, match=r"another recipe \(optim.lr: 0.003 there, 0.1 h"
    ):
        start(toy, finished, {"optim.lr": 0.1})
