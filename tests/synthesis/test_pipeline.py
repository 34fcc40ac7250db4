"""A whole synthesis: steps, settings that change, shards, kills, and what is refused."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmjax.errors import MmjaxError
from mmjax.generation import Scored
from mmjax.specs.build import as_dict
from mmjax.specs.synthesis import resolve_synthesis
from mmjax.synthesis import pipeline
from mmjax.synthesis.judge import Judge
from mmjax.synthesis.pipeline import Synthesis

ROOT = Path(__file__).parents[2]
EXAMPLES = {
    "introduction": "w30 w31",
    "item": "w10 {question}\nw11 {informative}\nw12 {precise}\nw13",
    "labels": {"yes": " w4", "no": " w5", "open": " w6"},
    "examples": [
        {"question": "w20", "informative": "w21 w22", "precise": "w22", "label": "yes"},
        {"question": "w20", "informative": "w21 w22", "precise": "w23", "label": "no"},
        {"question": "w24", "informative": "w25", "precise": "w26", "label": "open"},
    ],
}
COUNT = 12
ZERO = np.zeros(1)
FILES = ("pairs", "generated", "audit", "composed")


@pytest.fixture(scope="module")
def world(tmp_path_factory, write_folder):
    """Pictures with captions, another program's answers about them, and a tiny judge."""
    place = tmp_path_factory.mktemp("world")
    write_folder(place / "judge", "llama_tiny")
    (place / "examples.json").write_text(json.dumps(EXAMPLES))
    random, rows, answers = np.random.default_rng(0), [], []
    for i in range(COUNT):
        Image.fromarray(random.integers(0, 256, (16, 16, 3), np.uint8)).save(place / f"{i}.png")
        rows.append({"id": f"r{i}", "image": f"{i}.png", "caption": f"w{4 + i} w{5 + i}"})
        task = {
            "question": f"w{20 + i % 4}",
            "precise": f"w{24 + i}",
            "informative": f"w{20 + i} w{24 + i}" + " w9" * (i % 3),
        }
        text = json.dumps([task]) if i != 5 else "no task at all"
        answers.append({"id": f"r{i}", "text": text, "finish_reason": "stop"})
    (place / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (place / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answers))
    return place


def settings(world, **changes):
    config = {
        "name": "toy",
        "pairs": str(world / "pairs.jsonl"),
        "synthesizer": "requests",
        "requests": {"model": "toy"},
        "generate": {"triplets": 1},
        "filter": {
            "judge": str(world / "judge"),
            "examples": str(world / "examples.json"),
            "batch_size": 2,
            "keep_rate": 0.5,
        },
        "compose": {"stages": ("captions", "tasks", "unfiltered")},
    }
    for name, value in changes.items():
        config[name] = {**config.get(name, {}), **value} if isinstance(value, dict) else value
    return config


def answered(world, folder):
    folder.mkdir(exist_ok=True)
    (folder / "responses.jsonl").write_bytes((world / "answers.jsonl").read_bytes())
    return folder


def run(world, folder, shard=(0, 1), retry=False, **changes):
    config = as_dict(settings(world, **changes))
    spec = resolve_synthesis(config)
    return Synthesis(spec, config, folder, "synthesize", shard, retry).run()


def read(folder, name):
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


def contents(folder):
    names = [*FILES, *(f"stages/{name}" for name in ("captions", "tasks", "unfiltered"))]
    return {name: (folder / f"{name}.jsonl").read_bytes() for name in names}


@pytest.fixture(scope="module")
def straight(world, tmp_path_factory):
    folder = answered(world, tmp_path_factory.mktemp("runs") / "straight")
    assert run(world, folder)
    return folder


def test_every_record_comes_out_with_its_id_and_its_picture(straight):
    pairs, composed = read(straight, "pairs"), read(straight, "composed")
    assert [one["id"] for one in composed] == [f"r{i}" for i in range(COUNT)]
    assert [one["images"] for one in composed] == [one["images"] for one in pairs]
    audit = read(straight, "audit")
    assert len(audit) == COUNT - 1  # one answer held no task
    kept = {one["id"] for one in audit if one["keep"]}
    assert len(kept) == 6  # half of eleven, rounded
    assert min(one["margin"] for one in audit if one["keep"]) >= max(
        one["margin"] for one in audit if not one["keep"]
    )
    for one in composed:
        assert len(one["turns"]) == (4 if one["id"] in kept else 2)
        assert [turn["loss"] for turn in one["turns"]] == [False, True] * (len(one["turns"]) // 2)
    assert {one["id"] for one in read(straight, "stages/tasks")} == kept
    assert all(len(one["turns"]) == 2 for one in read(straight, "stages/captions"))
    assert sum(len(one["turns"]) == 4 for one in read(straight, "stages/unfiltered")) == COUNT - 1
    page = (straight / "synthesis.html").read_text()
    assert "12" in page


def test_a_second_start_makes_nothing_again(world, straight):
    before = {path: path.stat().st_mtime_ns for path in straight.glob("*.jsonl")}
    assert run(world, straight)
    assert {path: path.stat().st_mtime_ns for path in straight.glob("*.jsonl")} == before


def test_another_filter_keeps_what_was_written_and_judged(world, tmp_path, straight):
    folder = answered(world, tmp_path / "run")
    assert run(world, folder)
    judged = [path.stat().st_mtime_ns for path in sorted(folder.glob("judge/*/*/lines.jsonl"))]
    written = (folder / "generated.jsonl").stat().st_ino
    assert run(world, folder, filter={"keep_rate": 1.0})
    assert all(one["keep"] for one in read(folder, "audit"))
    assert sum(len(one["turns"]) == 4 for one in read(folder, "composed")) == COUNT - 1
    assert [
        path.stat().st_mtime_ns for path in sorted(folder.glob("judge/*/*/lines.jsonl"))
    ] == judged
    assert (folder / "generated.jsonl").stat().st_ino == written
    with pytest.raises(MmjaxError, match=r"another recipe .*seed"):
        run(world, folder, seed=3)


def test_another_judge_judges_anew(world, tmp_path, straight):
    """By other examples the same model says otherwise: its old scores are not taken for it."""
    folder = answered(world, tmp_path / "run")
    assert run(world, folder)
    before = [one["scores"] for one in read(folder, "audit")]
    examples = json.loads((world / "examples.json").read_text()) | {"introduction": "w40 w41 w42"}
    (tmp_path / "others.json").write_text(json.dumps(examples))
    others = {"examples": str(tmp_path / "others.json")}
    assert run(world, folder, filter=others)
    assert [one["scores"] for one in read(folder, "audit")] != before
    assert run(world, folder)
    assert contents(folder) == contents(straight)


def test_shards_judge_together(world, tmp_path, straight, capsys):
    folder = answered(world, tmp_path / "run")
    assert not run(world, folder, shard=(1, 3))
    assert "records are not judged yet" in capsys.readouterr().out
    assert not run(world, folder, shard=(0, 3))
    assert run(world, folder, shard=(2, 3))
    assert contents(folder) == contents(straight)


def test_without_answers_the_requests_are_left(world, tmp_path, straight, capsys):
    folder = tmp_path / "run"
    assert not run(world, folder)
    assert "12 requests are in" in capsys.readouterr().out
    asked = read(folder, "requests")
    assert [one["custom_id"] for one in asked] == [f"r{i}" for i in range(COUNT)]
    answered(world, folder)
    assert run(world, folder)
    assert contents(folder) == contents(straight)


def test_records_without_an_answer_are_named_and_healed(world, tmp_path, straight, monkeypatch):
    folder = answered(world, tmp_path / "run")
    lines = (folder / "responses.jsonl").read_text().splitlines(keepends=True)
    (folder / "responses.jsonl").write_text("".join(lines[:4] + lines[6:]))
    assert run(world, folder)
    assert [one["id"] for one in read(folder, "failed")] == ["r4", "r5"]
    assert len(read(folder, "composed")) == COUNT - 2
    answered(world, folder)  # now they are there
    read_again = Judge.scores
    counts = []
    monkeypatch.setattr(
        Judge, "scores", lambda self, tasks: counts.append(len(tasks)) or read_again(self, tasks)
    )
    assert run(world, folder)
    assert 1 <= sum(counts) <= 3  # of eleven: those that lack, beside the others of their batches
    assert read(folder, "failed") == []
    assert contents(folder) == contents(straight)


def test_what_a_server_did_not_answer_says_why(world, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    asked = {"base_url": address, "tries": 1, "concurrency": 4}
    with pytest.raises(MmjaxError, match=r"every pair failed; see failed\.jsonl"):
        run(world, tmp_path / "run", requests=asked)
    failed = read(tmp_path / "run", "failed")
    assert [one["id"] for one in failed] == [f"r{i}" for i in range(COUNT)]
    assert not any("has no answer to it" in one["error"] for one in failed)


def test_without_a_judge_every_task_is_kept(world, tmp_path):
    folder = answered(world, tmp_path / "run")
    assert run(world, folder, filter={"judge": "", "examples": "", "keep_rate": None})
    assert all(one["keep"] and one["scores"] is None for one in read(folder, "audit"))


def test_what_sees_the_pictures_has_a_say(world, tmp_path, straight, monkeypatch, capsys):
    """Half of the pictures say no, one cannot be read; shards agree, and a retry heals it."""
    asked = []

    def looker(questions, answers, images):
        asked.extend(questions)
        brightness = [float(np.asarray(image).mean()) - 127.5 for image in images]
        return [[Scored(max(0.0, b), ZERO), Scored(max(0.0, -b), ZERO)] for b in brightness]

    monkeypatch.setattr(pipeline, "load_looker", lambda spec, folder: looker)
    broken = world / "3.png"
    picture = broken.read_bytes()
    changes: dict[str, Any] = {"filter": {"looker": "runs/any", "keep_rate": 1.0}}
    folder = answered(world, tmp_path / "run")
    try:
        broken.write_bytes(b"no picture")
        assert not run(world, folder, shard=(1, 2), **changes)
        assert not run(world, folder, shard=(0, 2), **changes)
        assert "records are not looked at yet" in capsys.readouterr().out
        assert run(world, folder, shard=(1, 2), **changes)
        first = {one["id"]: one for one in read(folder, "audit")}
    finally:
        broken.write_bytes(picture)
    assert (first["r3"]["keep"], first["r3"]["looked"]) == (False, None)
    assert first["r3"]["why"] == "its picture cannot be read"
    assert len(asked) >= COUNT - 1
    assert all(' the right answer to the question "w2' in question for question in asked)
    assert run(world, folder, **changes)  # what failed is left alone until that is wanted
    assert read(folder, "audit") == list(first.values())
    count = len(asked)
    assert run(world, folder, retry=True, **changes)
    healed = {one["id"]: one for one in read(folder, "audit")}
    assert healed["r3"]["looked"] is not None
    for name, one in healed.items():
        mean = np.asarray(Image.open(world / f"{name[1:]}.png")).mean()
        assert one["looked"] == pytest.approx(mean - 127.5, abs=1e-3)
        assert one["keep"] == (one["looked"] >= 0)
        assert one["why"] == ("kept" if one["keep"] else "the picture says no")
        assert name == "r3" or one == first[name]
    assert {one["keep"] for one in healed.values()} == {True, False}
    assert count < len(asked) <= count + 2  # those of its batch
    whole = answered(world, tmp_path / "whole")
    assert run(world, whole, **changes)
    assert contents(whole) == contents(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"filter": {"looker": "synthesizer"}}, "config.filter.looker is 'synthesizer'"),
        ({"filter": {"judge": "", "looker": "runs/a"}}, "config.filter.looker is 'runs/a'"),
        ({"synthesizer": ""}, "config.tune is .* expected an instruct recipe"),
        ({"requests": {"model": ""}}, "config.requests.model is '' .*a name where"),
        ({"filter": {"keep_rate": 2.0}}, "config.filter.keep_rate is 2.0"),
        ({"compose": {"stages": ("all",)}}, "config.compose.stages is 'all'"),
        ({"name": "../evil"}, "config.name is '../evil'"),
        ({"wordings": "xx"}, "no wordings are called 'xx'"),
        ({"pairs": "none.csv"}, "cannot read none.csv"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_made(world, tmp_path, changes, message):
    with pytest.raises(MmjaxError, match=message.replace(" .*a name", ".*a name")):
        run(world, tmp_path / "run", **changes)
    assert not (tmp_path / "run" / "pairs.jsonl").exists()


@pytest.mark.slow
def test_killed_at_five_moments_it_ends_with_the_same_bytes(world, tmp_path, straight):
    recipe = tmp_path / "recipe.py"
    recipe.write_text(
        "from ml_collections import ConfigDict\n\n\ndef get_config():\n"
        f"    return ConfigDict({settings(world)!r})\n"
    )
    folder = answered(world, tmp_path / "run")
    command = [sys.executable, "-m", "mmjax.synthesize", "--config", str(recipe)]

    def start():
        return subprocess.Popen(
            [*command, "--workdir", str(folder)],
            env=os.environ | {"PYTHONPATH": str(ROOT), "MMJAX_CACHE": str(tmp_path / "cache")},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    killed = 0
    for made in (
        "pairs.jsonl",
        "generated.jsonl",
        "judge/*/0-of-1/lines.jsonl",
        "audit.jsonl",
        "stages",
    ):
        child = start()
        while child.poll() is None and not list(folder.glob(made)):
            time.sleep(0.005)
        child.send_signal(signal.SIGKILL)
        _, told = child.communicate()
        assert child.returncode in (0, -signal.SIGKILL), told
        killed += child.returncode != 0
    assert killed >= 4  # the last may have ended before it was hit
    child = start()
    _, told = child.communicate(timeout=300)
    assert child.returncode == 0, told
    assert contents(folder) == contents(straight)
