"""Writing tasks with a real, tiny adapter: what is read, what is kept, what a bad picture costs."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from PIL import Image

from mmjax.adapters.multimodal import Multimodal
from mmjax.adapters.rep_adapter import RepAdapter
from mmjax.data.markers import MARKERS, Cues
from mmjax.data.turn_records import BLANK, Message, Record
from mmjax.encoders import LanguageModel, load_encoder
from mmjax.generation import generate
from mmjax.synthesis.generate import (
    AdaptedWriter,
    Generating,
    LlavaWriter,
    Written,
    generate_tasks,
    outcome,
)
from mmjax.synthesis.parts import Failure, Parts
from mmjax.tasks.instruct.answering import Answering
from mmjax.tasks.instruct.task import InstructTask
from tests.tasks.instruct.llava_world import write_world

HOW = Generating(MARKERS["plain"], Cues(), batch_size=2)


@pytest.fixture(scope="module")
def writer(tmp_path_factory, write_folder):
    place = tmp_path_factory.mktemp("models")
    language = load_encoder(write_folder(place / "llama", "llama_tiny"))
    vision = load_encoder(write_folder(place / "clip", "clip_tiny"), tower="image")
    routed = RepAdapter(rank=4, temperature=2.0)
    parts = Multimodal(routed, dataclasses.replace(routed, routing="per_image"), taps=2, hidden=6)
    random = np.random.default_rng(0)
    shapes = jax.eval_shape(parts.init, jax.random.key(0), language.params, vision.params)
    trainable = jax.tree.map(
        lambda x: (0.3 * random.standard_normal(x.shape)).astype(np.float32), shapes
    )
    assert isinstance(language, LanguageModel)
    task = InstructTask.of(parts, language.module, vision.module)
    return AdaptedWriter(Answering(task, language, vision, trainable, {}), 4)


@pytest.fixture
def pairs(tmp_path):
    """Five captions of different lengths; the last is shown a blank picture."""
    random = np.random.default_rng(1)
    records = []
    for i in range(5):
        path = tmp_path / f"{i}.png"
        Image.fromarray(random.integers(0, 256, (24, 24, 3), np.uint8)).save(path)
        said = " ".join(f"w{4 + (7 * i + j) % 40}" for j in range(1 + i % 3))
        turns = Message("user", "other words"), Message("assistant", said)
        records.append(Record(f"r{i}", (str(path) if i < 4 else BLANK,), turns))
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(record.line() for record in records))
    return path


def run(pairs, folder, writer, shards=1, **options):
    total = sum(1 for _ in pairs.open())
    for shard in range(shards):
        generate_tasks(pairs, Parts(folder, total, shard, shards), writer, HOW, **options)
    return [one for _, one in Parts(folder, total).merged()]


def test_shards_write_the_same_bytes(pairs, tmp_path, writer):
    alone = run(pairs, tmp_path / "alone", writer)
    texts = [one["raw"] for one in alone if not isinstance(one, Failure)]
    assert (len(texts), len(set(texts)) > 1) == (5, True)  # the caption or the picture was read
    assert json.dumps(run(pairs, tmp_path / "three", writer, shards=3)) == json.dumps(alone)


def test_a_bad_picture_costs_its_own_record_alone(pairs, tmp_path, writer):
    alone = run(pairs, tmp_path / "alone", writer)
    picture = tmp_path / "1.png"
    content = picture.read_bytes()
    picture.write_bytes(content[:40])
    found = run(pairs, tmp_path / "other", writer)
    assert isinstance(found[1], Failure)
    assert found[1].tries == 2
    assert "1.png" in found[1].error
    assert [one for i, one in enumerate(found) if i != 1] == [
        one for i, one in enumerate(alone) if i != 1
    ]
    picture.write_bytes(content)
    assert run(pairs, tmp_path / "other", writer, retry_failed=True) == alone


def test_a_llava_sees_the_image_behind_the_marker_of_the_users_turn(tmp_path, write_folder):
    model = load_encoder(write_world(tmp_path / "world", write_folder) / "llava_tiny")
    assert isinstance(model, LanguageModel)
    image = Image.open(tmp_path / "world" / "0.png").convert("RGB")
    writer = LlavaWriter(model, 4, at=3)
    assert writer.with_image("w5 w6 w7") == "w5 <image>\nw6 w7"
    (found,) = writer.write(["w5 w6 w7"], [image])
    (wanted,) = generate(model, ["w5 <image>\nw6 w7"], 4, images=[[image]])
    decode = model.preprocess.tokenizer.decode
    assert found.text == decode(wanted.token_ids, skip_special_tokens=False)


def test_the_prompt_has_its_own_cue_and_an_open_turn():
    record = Record("a", (), (Message("user", "x"), Message("assistant", "a cat")))
    assert HOW.prompt(record) == (
        "\nInstruction: Describe the image.\nResponse: a cat\nInstruction:"
    )


def test_what_was_written_is_kept_beside_what_was_read_of_it():
    text = (
        " Answer in a few words.\nWhat is it?\nResponse: a cat\nInstruction: Answer and explain.\n"
        "What is it?\nResponse: It has whiskers, so it is a cat."
    )
    found = outcome(Written(text, True), HOW)
    assert found["raw"] == text
    assert found["triplets"] == [
        {
            "question": "What is it?",
            "precise": "a cat",
            "informative": "It has whiskers, so it is a cat.",
        }
    ]
    assert outcome(Written(text, False), HOW)["triplets"] == []
