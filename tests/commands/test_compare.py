"""Two runs on one page: their tables, what is different, and the settings that made it so."""

import json
from pathlib import Path

import pytest

from mmjax.commands import compare
from mmjax.errors import MmjaxError
from mmjax.report.results import Results

COUNTS = {"train": (20,), "val": (4,), "test": (8,)}
SHOWN = ("R@1", "R@5", "R@10", "mR")


def write_run(folder: Path, rate: float, figures: list[float], seeds: tuple[int, ...] = (0, 1)):
    """A measured run of the contrastive task as a run folder has it."""
    folder.mkdir(parents=True)
    metrics = ("t2i_", "i2t_")
    system = {f"{way}{name}": figures for way in metrics for name in SHOWN}
    results = Results(folder.name, {"adapted": system}, {"adapted": "two heads"}, seeds, COUNTS)
    results.save(folder / "results.json")
    config = {"name": folder.name, "task": "contrastive", "optim": {"lr": rate}}
    (folder / "config.json").write_text(json.dumps(config))
    for seed in seeds:
        place = folder / f"seed_{seed}" / "contrastive"
        place.mkdir(parents=True)
        lines = [{"step": s, "loss": 2.0 - s * rate} for s in (1, 2, 3)]
        (place / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    return [
        write_run(tmp_path / "slow", 0.1, [0.2, 0.4]),
        write_run(tmp_path / "quick", 0.3, [0.3, 0.6]),
    ]


def test_tables_differences_curves_and_settings(runs, tmp_path, capsys):
    report = compare.compare(runs)
    first = report.tables[0]
    assert [label for label, _ in first.rows] == ["slow: two heads", "quick: two heads"]
    less = next(t for t in report.tables if t.title.endswith("quick minus slow"))
    ((label, cells),) = less.rows
    assert label == "two heads"
    assert cells[-1] == pytest.approx((0.1, 0.2))
    assert report.notes == (
        "name: slow in slow, quick in quick",
        "optim.lr: 0.1 in slow, 0.3 in quick",
    )
    assert {(c.run, c.metric) for c in report.curves} == {
        (f"{run}/{seed}", "loss") for run in ("slow", "quick") for seed in (0, 1)
    }
    assert compare.main([*map(str, runs), "--out", str(tmp_path / "page")]) == 0
    page = (tmp_path / "page" / "compare.html").read_text()
    assert "<h1>slow and quick</h1>" in page
    assert "optim.lr: 0.1 in slow" in page
    assert "+0.150 ± 0.071" in page
    assert "compare.html" in capsys.readouterr().out


def test_other_seeds_are_not_subtracted(runs, tmp_path):
    other = write_run(tmp_path / "one", 0.1, [0.3], seeds=(0,))
    assert not any("minus" in table.title for table in compare.compare([runs[0], other]).tables)


def test_what_cannot_be_compared(runs, tmp_path):
    with pytest.raises(MmjaxError, match="1 run to compare; give two"):
        compare.compare(runs[:1])
    (runs[1] / "results.json").unlink()
    with pytest.raises(MmjaxError, match=r"has no results.json; finish it first: mmjax evaluate"):
        compare.compare(runs)
    with pytest.raises(MmjaxError, match="holds no run"):
        compare.compare([runs[0], tmp_path])


def test_runs_of_one_name_are_told_apart(runs, tmp_path):
    twin = write_run(tmp_path / "other" / "slow", 0.1, [0.2, 0.4])
    assert compare.compare([runs[0], twin]).tables[0].rows[1][0] == f"{twin}: two heads"
