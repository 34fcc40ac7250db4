"""The chat without a trained adapter: its flags, what it remembers, and a model with a template."""

import io
import json
import sys

import jax
import numpy as np
import pytest
from PIL import Image
from tokenizers import Tokenizer

from mmjax import chat
from mmjax.encoders import LanguageModel, load_encoder
from mmjax.generation import Sampling, generate

TEMPLATE = (
    "{% for m in messages %}{{ 'w5 ' if m.role == 'user' else 'w6 ' }}{% for part in m.content %}"
    "{% if part.type == 'image' %}<image> {% else %}{{ part.text }} {% endif %}{% endfor %}"
    "{% endfor %}"
)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "one of the arguments --adapter --model is required"),
        (("--adapter", "a", "--model", "b"), "not allowed with"),
        (("--adapter", "a", "--question", " "), "--question is empty"),
        (("--adapter", "a", "--top-p", "0.5"), "--top-p needs a --temperature"),
        (("--adapter", "a", "--temperature", "-1"), "at least 0"),
        (("--adapter", "a", "--max-new-tokens", "0"), "at least 1"),
        (("--adapter", "a", "--history", "-1"), "at least 0"),
        (("--adapter", "a", "--quantize", "int8"), "are of --model"),
        (("--adapter", "a", "--seed", "x"), "invalid int value"),
    ],
)
def test_flags_that_are_refused(say, arguments, message):
    code, out, err = say(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1


def test_ctrl_c_at_the_prompt_ends(monkeypatch, capsys):
    def interrupted(prompt):
        raise KeyboardInterrupt

    monkeypatch.setattr("builtins.input", interrupted)
    chat._loop(chat.Talk(lambda *_: "never", 0))
    assert capsys.readouterr().out == ""


def test_an_adapter_that_answers_nothing(say, tmp_path, whole_card):
    (tmp_path / "adapter_card.json").write_text(json.dumps(whole_card("language")))
    code, _, err = say("--adapter", str(tmp_path))
    assert code == 2
    assert "task 'language', which answers no questions" in err


def test_what_is_remembered(monkeypatch, capsys):
    """The loop alone: exchanges kept, forgotten, and broken off."""
    heard = []

    def reply(turn):
        heard.append((turn.question, list(turn.before), turn.image, turn.number))
        turn.on_text(0, " yes")
        if turn.question == "stop":
            raise KeyboardInterrupt
        turn.on_text(0, f" {turn.number}")
        return f" yes {turn.number}"

    lines = ["a", "b", "stop", "c", "/reset", "d", "/image", "/help"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(lines)))
    chat._loop(chat.Talk(reply, 1, picture=None))
    out, err = capsys.readouterr()
    assert out == "yes 0\nyes 1\nyes\nyes 3\nyes 4\n"
    assert "(stopped)" in err
    assert chat.COMMANDS in err
    before = [[], [("a", "yes 0")], [("b", "yes 1")], [("b", "yes 1")], []]
    assert [asked[1] for asked in heard] == before
    assert [asked[3] for asked in heard] == [0, 1, 2, 3, 4]


@pytest.mark.slow
def test_a_model_that_reads_pictures_and_what_was_said(say, folder, tmp_path):
    path = folder("llava_tiny")
    tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    tokenizer.add_special_tokens(["<image>"])
    tokenizer.save(str(path / "tokenizer.json"))
    noise = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    arguments = ("--model", str(path), "--image", str(tmp_path / "a.png"), "--max-new-tokens", "3")
    (path / "chat_template.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    code, out, err = say(*arguments, stdin="w9 w8\nw10")
    assert code == 0, err
    model = load_encoder(path)
    assert isinstance(model, LanguageModel)
    (first,) = generate(model, [[5, 50, 9, 8]], 3, images=[[noise]])
    words = [int(word[1:]) for word in first.text.split()]
    assert words
    (second,) = generate(model, [[5, 50, 9, 8, 6, *words, 5, 10]], 3, images=[[noise]])
    assert out.splitlines() == [first.text, second.text]
    drawn, key = Sampling(2.0, top_p=0.9), jax.random.fold_in(jax.random.key(4), 0)
    (random,) = generate(model, [[5, 50, 9, 8]], 3, drawn, key, images=[[noise]])
    draw = ("--temperature", "2", "--top-p", "0.9", "--seed", "4")
    assert say(*arguments, *draw, "--question", "w9 w8")[:2] == (0, random.text + "\n")
    assert random.text != first.text


def test_models_that_cannot_talk(say, folder, tmp_path):
    noise = np.zeros((9, 9, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    code, _, err = say("--model", str(folder("dinov2_tiny")))
    assert (code, "a dinov2 encoder, which says nothing" in err) == (2, True)
    path = folder("llama_tiny")
    code, _, err = say("--model", str(path), "--question", "w9")
    assert (code, "has no chat template" in err) == (2, True)
    (path / "chat_template.jinja").write_text("{{ messages[0].content }}")
    question = ("--question", "w9", "--image", str(tmp_path / "a.png"))
    code, _, err = say("--model", str(path), *question)
    assert (code, "reads no pictures; a LLaVA does" in err) == (2, True)
    # In the loop it is said at once, not when the next question is asked.
    code, out, err = say("--model", str(path), stdin=f"/image {tmp_path / 'a.png'}\n/exit\n")
    assert (code, out, "error: " in err and "reads no pictures" in err) == (0, "", True)
