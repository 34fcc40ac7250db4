"""The command's own doors: what is converted, and what is refused in one sentence."""

import json
import sys

import pytest
from PIL import Image

from mmjax.data.dialogues import load_dialogues
from mmjax.errors import MmjaxError
from mmjax.synthesize import command


def run(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["mmjax.synthesize", *map(str, arguments)])
    code = 0
    try:
        command.start()
    except SystemExit as end:
        code = end.code
    return code, *capsys.readouterr()


def test_captions_become_another_projects_file(monkeypatch, capsys, tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "pairs.csv").write_text("image,caption\na.png,a red square\n")
    target = tmp_path / "pairs.json"
    arguments = ["convert", tmp_path / "pairs.csv", f"llava:{target}", "--check_images"]
    code, out, _ = run(monkeypatch, capsys, *arguments)
    assert (code, "1 records are in llava:" in out) == (0, True)
    (row,) = json.loads(target.read_text())
    assert row["conversations"][1] == {"from": "gpt", "value": "a red square"}  # learned
    code, _, _ = run(monkeypatch, capsys, *arguments[:2], f"records:{tmp_path / 'pairs.jsonl'}")
    assert code == 0
    found = load_dialogues([f"records:{tmp_path / 'pairs.jsonl'}"])  # what `instruct` reads
    assert [turn.learn for turn in found.conversations[0].turns] == [False, False, True]
    (tmp_path / "a.png").unlink()
    code, _, told = run(monkeypatch, capsys, *arguments)
    assert code == 1
    assert told.startswith("error: ")
    assert "pairs.csv, row 2: no picture at" in told
    assert told.count("\n") == 1


def test_help_says_what_there_is(monkeypatch, capsys):
    for arguments in (["--help"], ["convert", "--help"], ["evaluate", "--help"]):
        code, out, _ = run(monkeypatch, capsys, *arguments)
        assert code in (0, None)
        assert {"--help": "--shard", "convert": "--root", "evaluate": "--limit"}[
            arguments[0]
        ] in out


@pytest.mark.parametrize("shard", ["4/4", "x", "1/0", "-1/2", ""])
def test_a_share_that_is_none_is_refused(shard):
    with pytest.raises(MmjaxError, match=r"--shard is .*; expected NUMBER/OF"):
        command._shard(shard)


def test_an_adapter_that_is_not_there_is_told(monkeypatch, capsys, tmp_path):
    arguments = ["evaluate", tmp_path / "none", "--benchmarks", "slake", "--root", tmp_path]
    code, _, told = run(monkeypatch, capsys, *arguments)
    assert code == 1
    assert told.startswith("error: ")
