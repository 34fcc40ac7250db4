"""ScienceQA and mixed instructions from end to end: the recipes' `:tiny` on data of this test."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

import mmjax
from configs import lavin_chat, lavin_scienceqa_7b, lavin_scienceqa_13b
from mmjax import sharding, study
from mmjax.data.library import Library
from mmjax.data.scienceqa import Problems
from mmjax.errors import MmjaxError
from mmjax.evals.scienceqa import accuracies, read_answer
from mmjax.report.results import Results
from mmjax.specs.build import as_dict
from mmjax.specs.recipe import resolve_recipe
from mmjax.tasks.catalog import assemble, definition_of
from mmjax.tasks.instruct.sources import load_source
from tests.run.conftest import Toy, changed, draw

VOCABULARY = 320
SIDES = {"train": range(6), "val": range(6, 8), "test": range(8, 12)}


def problem(i: int) -> dict[str, Any]:
    """Every second problem has a picture, and every third a hint."""
    return {
        "question": "Which shape is it?" if i % 2 else "Which word is a noun?",
        "choices": ["a circle", "a square", "none"] if i % 2 else ["run", "dog"],
        "answer": i % 2,
        "hint": "Look well." if i % 3 == 0 else "",
        "image": "image.png" if i % 2 else None,
        "grade": f"grade{1 + i}",
        "subject": "natural science" if i % 2 else "language science",
        "lecture": "A lecture.",
        "solution": "It is so.",
    }


def write_scienceqa(folder: Path) -> None:
    folder.mkdir()
    rows = {str(i): problem(i) for i in range(12)}
    (folder / "problems.json").write_text(json.dumps(rows))
    splits = {side: [str(i) for i in ids] for side, ids in SIDES.items()}
    (folder / "pid_splits.json").write_text(json.dumps(splits))
    for side, ids in SIDES.items():
        for i in ids:
            if rows[str(i)]["image"]:
                own = folder / "images" / side / str(i)
                own.mkdir(parents=True)
                draw(own / "image.png", i % 10, i % 2)


def write_dialogues(folder: Path) -> None:
    for i in range(6):
        draw(folder / f"{i}.png", i, i % 2)
    asked = {"from": "human", "value": "<image>\nWhat is it?"}
    told = {"from": "gpt", "value": "It is a shape."}
    rows = [{"image": f"{i}.png", "conversations": [asked, told]} for i in range(6)]
    (folder / "llava.json").write_text(json.dumps(rows))
    texts = [{"instruction": "Say it.", "input": "", "output": "It."} for _ in range(5)]
    (folder / "alpaca.json").write_text(json.dumps([*texts, {**texts[0], "output": ""}]))


def write_tokenizer(path: Path) -> None:
    """Byte pairs of the fixture's own words, so that every text can be written and read."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special,
        initial_alphabet=sorted(alphabet),
        show_progress=False,
    )
    tokenizer.train_from_iterator([json.dumps(problem(i)) for i in range(12)], trainer)
    frame = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.post_processor = frame
    tokenizer.save(str(path))


@pytest.fixture(scope="module")
def world(tmp_path_factory, write_folder) -> Path:
    """A LLaMA and a CLIP of two layers, ScienceQA's layout and two files of instructions."""
    folder, random = tmp_path_factory.mktemp("instructions"), np.random.default_rng(0)
    tables = ("model.embed_tokens.weight", "lm_head.weight")
    tensors = {n: random.standard_normal((VOCABULARY, 32)).astype(np.float32) for n in tables}
    sizes = {"vocab_size": VOCABULARY, "max_position_embeddings": 512}
    write_folder(folder / "language", "llama_tiny", config=sizes, tensors=tensors)
    write_tokenizer(folder / "language" / "tokenizer.json")
    write_folder(folder / "image", "clip_tiny")
    write_scienceqa(folder / "scienceqa")
    write_dialogues(folder)
    return folder


def flags(world: Path) -> dict[str, str]:
    return {
        "encoders.image.source": str(world / "image"),
        "encoders.language.source": str(world / "language"),
        "questions.source": f"scienceqa:{world / 'scienceqa'}",
        "instruct.feed_forward": "both",
    }


def one_device(config: dict[str, Any], world: Path) -> dict[str, Any]:
    """For the tests' eight devices: weights are split over them, batches are not."""
    return changed(config, {**flags(world), "mesh.data": 1, "mesh.model": 8})


@pytest.fixture(scope="module")
def finished(world) -> Path:
    """The command itself, on one device."""
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "mmjax.main", "--workdir", str(world / "run")]
    command += ["--config", str(root / "configs" / "lavin_scienceqa_7b.py:tiny")]
    command += [f"--config.{name}={value}" for name, value in flags(world).items()]
    environment = Toy(world, {}).environment()
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (world / "stdout.txt").write_text(done.stdout)
    return world / "run"


@pytest.mark.slow
def test_the_command_trains_evaluates_and_reports(finished, world):
    results = Results.load(finished / "results.json")
    assert list(results.systems) == ["chance", "majority", "blank", "adapted"]
    sizes = {side: [len(ids)] for side, ids in SIDES.items()}
    assert results.counts == {**sizes, "questions": [4]}
    (seen,), (visits,) = results.learned["seen"], results.learned["visits"]
    assert results.learned["rows"] == [6]
    assert 2 <= seen == visits <= 4  # two steps of at most two rows
    assert (
        f"Trained on {seen} of 6 rows, {visits / 6:.3g} epochs."
        in definition_of("instruct").tables(results)[0].caption
    )
    columns = ("NAT", "LAN", "TXT", "IMG", "NO", "G7-12", "Avg", "unanswered")
    assert (
        definition_of("instruct").tables(results)[0].columns == columns
    )  # grades 9 to 12, no social science
    # Two of three options and two of two.
    assert results.systems["chance"]["vqa_acc"] == [pytest.approx((1 / 3 + 1 / 2) / 2)]
    page = (finished / "report.html").read_text(encoding="utf-8")
    assert "ScienceQA: accuracy by slice" in page
    assert "What the router learned" in page
    assert "unanswered" in (world / "stdout.txt").read_text()
    lines = (finished / "seed_0" / "instruct" / "metrics.jsonl").read_text().splitlines()
    assert any("val/G7-12" in line for line in lines)
    overview = (finished / "seed_0" / "instruct" / "params.txt").read_text()
    assert "vision/up/kernel" in overview  # CLIP's image tower has adapters like any other
    assert "language/feed_forward/router/kernel" in overview
    label, _ = definition_of("instruct").tables(results)[0].rows[-1]
    assert label == "routed adapters, rank 8, before feed-forward parts of both too"


@pytest.mark.slow
def test_answers_are_those_of_the_loaded_adapter(finished, world):
    """A fresh process's `answer`, row by row, says what evaluation counted."""
    config = as_dict(lavin_scienceqa_7b.get_config("tiny"))
    recipe = resolve_recipe(one_device(config, world))
    library = Library(sharding.make_mesh(1, 8), recipe.languages)
    (run,) = study.plan(recipe, finished)
    assembly, trainable = assemble(run, library), run.trained(library.mesh)
    data: Any = assembly.data
    functions: Any = data.publish(assembly.task, library.mesh).bind(trainable, assembly.frozen)
    asked = data.test["adapted"]
    said = functions["said"](asked.conversations, 16)
    adapted = mmjax.load_adapter(finished, kind=mmjax.Answering)
    folder = world / "scienceqa" / "images" / "test"
    for pictures in (False, True):
        rows = [i for i, p in enumerate(asked.problems) if (p.image is not None) == pictures]
        prompts = [asked.problems[i].prompt for i in rows]
        texts = [p.removeprefix("Question: ").removesuffix("\nResponse:") for p in prompts]
        shown = [folder / asked.problems[i].id / "image.png" for i in rows] if pictures else None
        assert not adapted.talks
        for asks in (texts, prompts):  # whether its first and last words are there or not
            again = adapted.answer(asks, shown, max_new_tokens=16)
            assert [one.text for one in again] == [said[i] for i in rows]
    chosen = np.array(
        [read_answer(text, len(p.choices)) for text, p in zip(said, asked.problems, strict=True)]
    )
    measured = Results.load(finished / "results.json").systems["adapted"]
    assert {k: [v] for k, v in accuracies(chosen, asked.problems).items()} == measured
    # One pass for all options: neither their order nor their neighbours matter.
    options = [["The answer is A", letter] for letter in "ABCD"]
    found = functions["options"](asked.conversations, options)
    turned = functions["options"](asked.conversations, [o[::-1] for o in options])
    np.testing.assert_allclose(np.stack(found), np.stack(turned)[:, ::-1], atol=1e-3)
    assert len({round(float(v[1]), 3) for v in found}) == 4


@pytest.mark.slow
def test_mixed_instructions_are_learned_and_held_out(world, tmp_path, monkeypatch):
    changes = {
        "questions.source": f"llava:{world / 'llava.json'}",
        "questions.mix": (f"alpaca:{world / 'alpaca.json'}",),
        "questions.images": str(world),
    }
    config = one_device(as_dict(lavin_chat.get_config("tiny")), world)
    config = changed(config, changes)
    study.run(resolve_recipe(config), config, tmp_path, "test")
    results = Results.load(tmp_path / "results.json")
    assert results.counts["train"] == [7]  # of 11 rows with an answer, 4 are held out
    assert set(results.systems["adapted"]) == {"token_log_prob", "perplexity"}
    (mean,), (perplexity,) = results.systems["adapted"].values()
    assert perplexity == pytest.approx(np.exp(-mean))
    assert perplexity > 1
    assert definition_of("instruct").tables(results)[0].title == "Answers that were held out"
    assert (
        "1 rows with an empty answer were left out"
        in definition_of("instruct").tables(results)[0].caption
    )

    # Asked as it was taught: by instructions, one after the other.
    import mmjax.tasks.instruct.answering

    read, encode = [], mmjax.tasks.instruct.answering.encode
    monkeypatch.setattr(
        mmjax.tasks.instruct.answering,
        "encode",
        lambda said, *rest: (read.append(said), encode(said, *rest))[1],
    )
    adapted = mmjax.load_adapter(tmp_path, kind=mmjax.Answering)
    assert adapted.talks
    adapted.answer(["w5"], max_new_tokens=1, history=[[("w6", "w7")]])
    texts = [turn.text for turn in read[0].turns[:3]]
    assert texts == ["Instruction: w6\nResponse:", "w7", "\nInstruction: w5\nResponse:"]


def prepared(world: Path, changes: dict[str, Any], tmp_path: Path) -> Any:
    config = changed(one_device(as_dict(lavin_scienceqa_7b.get_config("tiny")), world), changes)
    recipe = resolve_recipe(config)
    library = Library(sharding.make_mesh(1, 8), recipe.languages)
    (run,) = study.plan(recipe, tmp_path)
    return assemble(run, library).data, library


def test_batches_are_of_one_modality_and_long_rows_are_cut(world, tmp_path):
    data, library = prepared(world, {"encoders.language.max_length": 128}, tmp_path)
    assert library.truncated["language"] == (0, 6, 128)
    problems = load_source(resolve_spec(world), "train", library)
    assert isinstance(problems, Problems)
    kinds = set()
    for batch in data.batches(6, 2, seed=0):
        kinds.add("image" in batch)
        assert set(batch["text"]["modality"].tolist()) == {int("image" in batch)}
    assert kinds == {True, False}
    first = data.train.rows[0]
    tokenizer = Tokenizer.from_file(str(world / "language" / "tokenizer.json"))
    told = tokenizer.decode(first.ids[first.answers].tolist(), skip_special_tokens=False)
    assert told == f"{problems.problems[0].target}</s>"  # nothing else is learned
    longest = max(len(row.ids) for row in data.train.rows)
    data, library = prepared(world, {"encoders.language.max_length": longest - 1}, tmp_path)
    cut = [row for row in data.train.rows if row.cut]
    assert library.truncated["language"] == (len(cut), 6, longest - 1)
    assert cut
    assert all(row.ids[-1] != 2 for row in cut)  # its end is not learned


def resolve_spec(world: Path) -> Any:
    config = one_device(as_dict(lavin_scienceqa_7b.get_config("tiny")), world)
    return resolve_recipe(config).main.questions


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoders.language.max_length": 20}, r"problem \d+ takes \d+ tokens before its first"),
        ({"questions.max_new_tokens": 500}, "leaves no room for 500 new ones"),
        ({"evals": ("vqa",)}, r"expected one of \['scienceqa', 'text'\]"),
        ({"questions.mix": ("alpaca:x",)}, "beside a source of these kinds"),
        ({"questions.unanswered": "skip"}, "questions.unanswered"),
        ({"questions.source": "scienceqa:nowhere"}, "cannot read .*problems.json"),
    ],
)
def test_recipes_that_are_refused(changes, message, world, tmp_path):
    with pytest.raises(MmjaxError, match=message):
        prepared(world, changes, tmp_path)


def test_a_corrupt_picture_is_named_by_its_problem(world, tmp_path):
    data, _ = prepared(world, {}, tmp_path)
    table = data.train.table
    blank = table.items[len(table) - 1]
    assert blank.getextrema() == ((255, 255),) * 3
    broken = tmp_path / "image.png"
    Image.new("RGB", (64, 64), "red").save(broken)
    broken.write_bytes(broken.read_bytes()[:60])
    items = type(table.items)([broken], ["problems.json, problem 7"])
    with pytest.raises(MmjaxError, match=r"problem 7: picture 0 \(.*image.png\)"):
        items[0]


def test_the_recipes_are_the_papers():
    small, large = (
        resolve_recipe(as_dict(module.get_config())).main
        for module in (lavin_scienceqa_7b, lavin_scienceqa_13b)
    )
    assert (small.instruct.temperature, large.instruct.temperature) == (10, 5)
    for stage in (small, large):
        assert stage.optim.lr == pytest.approx(9e-3 * 32 / 256)
        # Of 12,726 problems 6,218 have a picture; no batch holds both kinds.
        assert stage.train.steps == 20 * (math.ceil(6218 / 32) + math.ceil(6508 / 32))
        assert stage.train.batch_size == 32
        assert stage.optim.warmup_steps == stage.train.steps // 10
    chat = resolve_recipe(as_dict(lavin_chat.get_config())).main
    assert chat.optim.lr == small.optim.lr
    assert chat.train.steps == 15 * 6538
    assert chat.questions.evaluation == "held_out"
    with pytest.raises(ValueError, match="'default' or 'tiny'"):
        lavin_chat.get_config("huge")
    assert lavin_scienceqa_13b.get_config("tiny").name == "lavin_scienceqa_13b_tiny"
