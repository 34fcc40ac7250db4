"""Asking a trained adapter: in the words that it learned, with programs that are compiled once."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import mmjax.data.layout
import mmjax.tasks.instruct.answering
from mmjax.adapters.multimodal import Multimodal
from mmjax.adapters.rep_adapter import RepAdapter, routing_table
from mmjax.data.wording import INSTRUCTION, PROBLEM, QUESTION, Wording, ask, cut
from mmjax.encoders import load_encoder
from mmjax.errors import MmjaxError
from mmjax.tasks.instruct.answering import Answering
from mmjax.tasks.instruct.task import InstructTask

ROUTED = RepAdapter(rank=4, temperature=2.0)
PARTS = Multimodal(ROUTED, dataclasses.replace(ROUTED, routing="per_image"), taps=2, hidden=6)


@pytest.fixture(scope="module")
def models(tmp_path_factory, write_folder) -> Any:
    place = tmp_path_factory.mktemp("models")
    language = write_folder(place / "llama", "llama_tiny")
    vision = write_folder(place / "clip", "clip_tiny")
    return load_encoder(language), load_encoder(vision, tower="image")


@pytest.fixture(scope="module")
def trainable(models) -> Any:
    random = np.random.default_rng(0)
    shapes = jax.eval_shape(PARTS.init, jax.random.key(0), *(model.params for model in models))
    return jax.tree.map(
        lambda x: (0.3 * random.standard_normal(x.shape)).astype(np.float32), shapes
    )


def adapted(models, trainable, wording) -> Answering:
    language, vision = models
    task = InstructTask.of(PARTS, language.module, vision.module)
    return Answering(task, language, vision, trainable, {}, wording)


@pytest.fixture(scope="module")
def answering(models, trainable) -> Answering:
    return adapted(models, trainable, Wording(QUESTION, " "))


@pytest.fixture
def compiled(caplog) -> Any:
    """Returns `compiled(function)`: how many programs are compiled while it runs."""

    def count(function: Any) -> int:
        caplog.clear()
        with jax.log_compiles():
            function()
        return sum(record.message.startswith("Compiling ") for record in caplog.records)

    return count


def pictures(count: int) -> list[Image.Image]:
    random = np.random.default_rng(1)
    return [Image.fromarray(random.integers(0, 256, (24, 24, 3), np.uint8)) for _ in range(count)]


def test_answers_compile_once_for_a_bucket_of_lengths(answering, compiled):
    def ask(words: int, count: int) -> None:
        answering.answer(["w5 " * words] * count, pictures(count), max_new_tokens=2)
        answering.score(["w5 " * words] * count, [["w6", "w7 w8"]] * count, pictures(count))

    assert compiled(lambda: ask(1, 3)) > 0
    for words, count in ((2, 3), (3, 4), (1, 4)):
        assert compiled(lambda w=words, n=count: ask(w, n)) == 0


def test_a_routing_table_is_compiled_once(models, trainable, compiled):
    model, modality = models[0].with_hook(ROUTED), jnp.asarray(trainable["modality"]["embedding"])
    first = np.asarray(routing_table(model, trainable["language"], modality))
    again = models[0].with_hook(ROUTED)  # as after the next evaluation
    found: list[Any] = []
    moved = jax.tree.map(lambda x: 2 * x, trainable["language"])
    assert compiled(lambda: found.append(routing_table(again, moved, modality))) == 0
    assert np.abs(np.asarray(found[0]) - first).max() > 1e-4


@pytest.mark.parametrize(
    ("wording", "question", "answer", "whole"),
    [
        (Wording(QUESTION, " "), "w5", "w6", "Question: w5\nResponse: w6"),
        (Wording(INSTRUCTION, talks=True), "w5", "w6", "Instruction: w5\nResponse:w6"),
        (
            Wording(PROBLEM),
            "w5 (A) w7 (B) w8",
            "w6",
            "Question: w5\nContext: N/A\nOptions: (A) w7 (B) w8\nResponse:w6",
        ),
    ],
)
def test_questions_are_asked_and_scored_in_the_words_that_were_learned(
    wording, question, answer, whole, models, trainable, monkeypatch
):
    read: list[str] = []

    def heard(turns: Any, tokenizer: Any) -> Any:
        read.append("".join(turn.text for turn in turns))
        return cut(turns, tokenizer)

    for module in (mmjax.tasks.instruct.answering, mmjax.data.layout):
        monkeypatch.setattr(module, "cut", heard)
    one = adapted(models, trainable, wording)
    assert one.talks == wording.talks
    one.score([question], [[answer]])
    assert read == [whole.removesuffix("w6").rstrip(" "), whole]
    read.clear()
    one.answer([question], max_new_tokens=2, history=[[("w9", "w6 ")]])
    asked = ask(wording.question, "w9")
    assert read == [f"{asked}{wording.space}w6\n{ask(wording.question, question)}"]


def test_scores_of_another_number_of_questions_are_refused(answering):
    with pytest.raises(MmjaxError, match="1 questions but 2 lists of answers"):
        answering.score(["w5"], [["w6"], ["w7"]])
    with pytest.raises(MmjaxError, match="an answer has no token"):
        answering.score(["w5"], [["w6", ""]])
