"""A run that says it is finished, with something of it gone, cut or edited."""

import json
import logging
import shutil

import pytest

from mmjax.errors import MmjaxError

STAGES = ("base", "language")
# The last step is the best one, so that the last checkpoint holds the adapter.
SMALL = {"variants": {}, "evals": ("retrieval",)} | {
    f"{where}train.{name}": value
    for where in ("", "base.")
    for name, value in {"steps": 4, "eval_every": 4, "save_every": 2, "select": "none"}.items()
}


@pytest.fixture(scope="module")
def whole(toy, start):
    """A small finished run; nobody writes into it."""
    return start(toy, toy.folder / "whole", SMALL)


@pytest.fixture
def run(whole, tmp_path, monkeypatch, toy):
    """A copy of the finished run that may be spoilt."""
    monkeypatch.setenv("MMJAX_CACHE", str(toy.cache))
    return shutil.copytree(whole, tmp_path / "run")


def cut(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def metrics(run, stage):
    return (run / "seed_0" / stage / "metrics.jsonl").read_bytes()


def told(caplog, *parts):
    """Whether one warning says all of it."""
    return any(all(str(p) in r.getMessage() for p in parts) for r in caplog.records)


def test_what_is_damaged_is_told_and_made_again(run, whole, toy, start, caplog, capsys):
    base, language = (run / "seed_0" / stage for stage in STAGES)
    shutil.rmtree(base / "adapter")
    cut(language / "done.json")
    # The last line goes; what the checkpoint before it knows of is still there.
    path = language / "metrics.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    with caplog.at_level(logging.WARNING, "mmjax"):
        start(toy, run, SMALL)
    assert told(caplog, base, "adapter/adapter_card.json is missing", "mended")
    assert told(caplog, base, "written again from the checkpoint of step 4")
    assert told(caplog, language, "done.json is not readable")
    assert told(caplog, path, "is not what was written up to step 4: not going on from step 4")
    assert "is complete" not in capsys.readouterr().out
    for stage in STAGES:
        assert toy.card(run, stage) == toy.card(whole, stage)
        assert metrics(run, stage) == metrics(whole, stage)
    before, after = (json.loads((r / "results.json").read_text()) for r in (whole, run))
    assert after["systems"] == before["systems"]


def test_a_card_that_is_cut_is_written_again(run, whole, toy, start):
    cut(run / "seed_0" / "language" / "adapter" / "adapter_card.json")
    start(toy, run, SMALL)
    assert toy.card(run, "language") == toy.card(whole, "language")


def test_a_report_that_is_gone_and_a_figure_that_was_edited(run, whole, toy, start, caplog, capsys):
    (run / "report.html").unlink()
    start(toy, run, SMALL)
    assert (run / "report.html").is_file()
    assert (run / "results.json").read_bytes() == (whole / "results.json").read_bytes()
    said = capsys.readouterr().out
    assert "is complete" in said
    assert str(run / "report.html") in said
    assert "it is written again" in caplog.text
    results = json.loads((run / "results.json").read_text())
    value = results["systems"]["adapted"]["t2i_R@1"][0]
    edited = json.dumps(results).replace(f'"t2i_R@1": [{value}]', '"t2i_R@1": [0.99]')
    (run / "results.json").write_text(edited)
    start(toy, run, SMALL)
    assert "its figures are not those that were written" in caplog.text
    after = json.loads((run / "results.json").read_text())
    assert after["systems"]["adapted"]["t2i_R@1"] == [value]


def emptied(content):
    return b""


def doubled_early(content):
    lines = content.splitlines(keepends=True)
    return b"".join([*lines[:1], *lines])


def digit(content):
    """The first digit behind a point is another one."""
    at = content.index(b".") + 1
    return content[:at] + (b"1" if content[at : at + 1] != b"1" else b"2") + content[at + 1 :]


@pytest.mark.parametrize("change", [emptied, doubled_early, digit])
def test_metrics_that_no_checkpoint_goes_with_are_refused(change, run, toy, start):
    path = run / "seed_0" / "language" / "metrics.jsonl"
    path.write_bytes(change(path.read_bytes()))
    wrong = path.read_bytes()
    with pytest.raises(MmjaxError) as info:
        start(toy, run, SMALL)
    said = str(info.value)
    assert f"{path} is not what was written up to step" in said
    assert f"remove {path.parent} to train this stage again" in said
    assert path.read_bytes() == wrong  # nothing was trained on top of it


def test_metrics_that_stand_twice_are_cut_back(run, whole, toy, start):
    path = run / "seed_0" / "language" / "metrics.jsonl"
    path.write_bytes(path.read_bytes() * 2)
    start(toy, run, SMALL)
    assert metrics(run, "language") == metrics(whole, "language")


def test_without_a_checkpoint_one_sentence_says_what_to_do(run, toy, start):
    stage = run / "seed_0" / "language"
    shutil.rmtree(stage / "checkpoints")
    params = next(p for p in (stage / "adapter").rglob("*") if p.is_file() and p.suffix != ".json")
    cut(params)
    with pytest.raises(MmjaxError) as info:
        start(toy, run, SMALL)
    assert f"{stage} is not whole ({params.relative_to(stage)} is not what was written)" in str(
        info.value
    )
    assert "remove that folder to train the stage again" in str(info.value)


def as_earlier_versions_left_it(run):
    """Takes out what they did not write: digests of files, metrics, results; the nested recipe."""
    from mmjax.runs.run_folder import flat

    for done in run.rglob("done.json"):
        facts = json.loads(done.read_text())
        for name in ("files", "digest", "adapter", "validation"):
            facts.pop(name, None)
        done.write_text(json.dumps(facts))
    results = json.loads((run / "results.json").read_text())
    del results["digest"]
    (run / "results.json").write_text(json.dumps(results))
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(flat(config)))


def test_a_folder_of_an_earlier_version_is_used_as_it_is(run, toy, start, capsys):
    as_earlier_versions_left_it(run)
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*") if p.is_file()}
    start(toy, run, SMALL)
    assert "is complete" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in run.rglob("*") if p.is_file()} == before
    path = run / "seed_0" / "language" / "metrics.jsonl"
    path.write_bytes(b"")
    (run / "seed_0" / "language" / "checkpoints").rename(run / "gone")
    with pytest.raises(MmjaxError, match=r"metrics.jsonl does not end, in order, at step 4"):
        start(toy, run, SMALL)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"\xff\xfe{}", "is not readable as the recipe of a run"),
        (b"null", "is damaged: it holds None"),
        (b"[]", "is damaged: it holds []"),
        (b"{", "is not readable as the recipe of a run"),
    ],
)
def test_a_damaged_recipe_is_one_sentence(content, part, tmp_path, toy, start):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(MmjaxError) as info:
        start(toy, tmp_path, SMALL)
    assert str(tmp_path / "config.json") in str(info.value)
    assert part in str(info.value)
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]
