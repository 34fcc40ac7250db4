"""Mistakes that callers make, and what they are told; run as a program it tries all of them.

Tests run with every annotation checked, which no user does: these calls need their own process.

  python -m tests.hostile.natural_mistakes FOLDER   # with the folders that test_api.py writes
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.hostile.mistaken_world import LABELS, PICTURE, ROWS, World, interop, load_adapter, merged

# name -> (what is called with the world, what the message says)
Case = tuple[Callable[[Any], Any], str]
LISTS = "put a single one into a list"


CASES: dict[str, Case] = {
    # ---- encoders
    "load nothing": (lambda w: w.load(None), "load_encoder takes a name or a path, got None"),
    "load a number": (lambda w: w.load(5), "load_encoder takes a name or a path, got 5"),
    "load an empty name": (lambda w: w.load(""), "encoder '' is not a folder"),
    "load a long name": (lambda w: w.load("x" * 5_000), "is not a folder"),
    "load a name with NUL": (lambda w: w.load("a\0"), "is not a folder"),
    "an unknown dtype": (lambda w: w.load(w.folder / "bert", "float99"), "dtype 'float99' is not"),
    "a dtype of integers": (lambda w: w.load(w.folder / "bert", "int8"), "dtype int8 is not"),
    "half precision": (lambda w: w.load(w.folder / "bert", "float16"), "dtype float16 is not"),
    "absurd pictures": (
        lambda w: w.load(w.folder / "clip", tower="image", image_size=7000),
        "image_size 7000 must be a whole number from 1 to 2048",
    ),
    "pictures of no size": (
        lambda w: w.load(w.folder / "clip", tower="image", image_size=0),
        "image_size 0 must be at least 1",
    ),
    "pictures of half a pixel": (
        lambda w: w.load(w.folder / "clip", tower="image", image_size=20.5),
        "image_size 20.5 must be a whole number",
    ),
    "one text": (lambda w: w.texts.embed_texts("w4"), LISTS),
    "a text in bytes": (lambda w: w.texts.embed_texts(b"w4"), LISTS),
    "a number of texts": (lambda w: w.texts.embed_texts(5), LISTS),
    "no texts at all": (lambda w: w.texts.embed_texts(None), LISTS),
    "a set of texts": (lambda w: w.texts.embed_texts({"w4", "w5"}), "got a set"),
    "a mapping of texts": (lambda w: w.texts.embed_texts({"a": "w4"}), "got a dict"),
    "a generator of texts": (lambda w: w.texts.embed_texts(t for t in ["w4"]), "got a generator"),
    "numbers for texts": (lambda w: w.texts.embed_texts([1]), "entry 0 of the texts is an int"),
    "no text among texts": (lambda w: w.texts.embed_texts(["w4", None]), "entry 1 of the texts"),
    "a batch of none": (lambda w: w.texts.embed_texts(["w4"], 0), "batch_size 0 must be at least"),
    "a batch of half": (
        lambda w: w.texts.embed_texts(["w4"], 1.5),
        "batch_size 1.5 must be a whole",
    ),
    "an unknown prompt": (lambda w: w.texts.embed_texts(["w4"], prompt="sing"), "prompt"),
    "pictures for texts": (lambda w: w.images.embed_texts(["w4"]), "use embed_images"),
    "texts for pictures": (lambda w: w.texts.embed_images([PICTURE]), "use embed_texts"),
    "an unknown output": (lambda w: list(w.texts.outputs(["w4"], "sum")), "unknown encoder output"),
    "an output of a list": (lambda w: list(w.texts.outputs(["w4"], ["cls"])), "unknown encoder"),
    "one path": (lambda w: w.images.embed_images(w.folder / "a.png"), LISTS),
    "one path as a text": (lambda w: w.images.embed_images(str(w.folder / "a.png")), LISTS),
    "one picture": (lambda w: w.images.embed_images(Image.fromarray(PICTURE)), LISTS),
    "one array": (lambda w: w.images.embed_images(PICTURE), "got an array of shape (24, 24, 3)"),
    "one grey array": (lambda w: w.images.embed_images(PICTURE[..., 0]), "got an array of shape"),
    "a number among pictures": (lambda w: w.images.embed_images([5]), "picture 0"),
    "floats for a picture": (lambda w: w.images.embed_images([PICTURE * 0.5]), "picture 0"),
    "a lacking picture": (lambda w: w.images.embed_images([w.folder / "gone.png"]), "gone.png"),
    # ---- generation
    "one prompt": (lambda w: w.generate("hi", 12), "expected a list of prompts, got 'hi'; put a"),
    "a prompt of None": (lambda w: w.generate([None]), "prompt 0"),
    "a prompt of a number": (lambda w: w.generate([5]), "as prompt 0, got an int"),
    "prompts in a mapping": (lambda w: w.generate({"a": "w4"}), "got a dict"),
    "an empty prompt": (lambda w: w.generate([[]]), "a prompt has no token"),
    "ids of another vocabulary": (lambda w: w.generate([[4, 10**6]]), "token id 1000000"),
    "negative ids": (lambda w: w.generate([[-1]]), "prompt 0: token id -1 must be at least 0"),
    "ids of half": (lambda w: w.generate([[4, 5.5]]), "prompt 0: token id 5.5"),
    "ids of texts": (lambda w: w.generate([[4, "w5"]]), "prompt 0: token id 'w5'"),
    "messages without roles": (lambda w: w.generate([[{"content": "x"}]]), "expected messages"),
    "messages and texts": (
        lambda w: w.generate([[{"role": "user", "content": "x"}, "y"]]),
        "got 'y'",
    ),
    "embeddings of another width": (
        lambda w: w.generate([np.zeros((3, 5), np.float32)]),
        "prompt 0 is float32 [3, 5]; embeddings are floats [l, ",
    ),
    "no new tokens": (lambda w: w.generate(["w4"], 0), "max_new_tokens 0 must be at least 1"),
    "half a token": (lambda w: w.generate(["w4"], 1.5), "max_new_tokens 1.5 must be a whole"),
    "tokens as a text": (lambda w: w.generate(["w4"], "12"), "max_new_tokens '12' must be a whole"),
    "more tokens than memory": (lambda w: w.generate(["w4"], 10**8), "do not fit"),
    "one stop text": (lambda w: w.generate(["w4"], 2, stop="end"), "expected a list of stop texts"),
    "an empty stop text": (lambda w: w.generate(["w4"], 2, stop=[""]), "a stop text is empty"),
    "a stop text of a number": (lambda w: w.generate(["w4"], 2, stop=[5]), "entry 0 of the stop"),
    "a stop id": (lambda w: w.generate(["w4"], 2, stop_token_ids=5), "stop_token_ids"),
    "a stop id beyond": (
        lambda w: w.generate(["w4"], 2, stop_token_ids=[10**6]),
        "token id 1000000",
    ),
    "a greedy text": (
        lambda w: w.generate(["w4"], 2, "greedy"),
        "sampling is 'greedy'; expected a",
    ),
    "a number as a key": (
        lambda w: w.generate(["w4"], 2, key=5),
        "key is 5; expected jax.random.key(...)",
    ),
    "temperature 0": (lambda w: w.sampled(temperature=0.0), "must be above 0"),
    "temperature NaN": (lambda w: w.sampled(temperature=float("nan")), "temperature nan must be"),
    "temperature infinite": (lambda w: w.sampled(temperature=float("inf")), "temperature inf must"),
    "temperature 1e-300": (lambda w: w.sampled(temperature=1e-300), "temperature 1e-300 must be"),
    "temperature as a text": (lambda w: w.sampled(temperature="1"), "temperature '1' must be"),
    "top-k of half": (lambda w: w.sampled(top_k=1.5), "top_k 1.5 must be a whole number"),
    "top-p NaN": (lambda w: w.sampled(top_p=float("nan")), "top_p nan must be in (0, 1]"),
    "pictures for a plain model": (
        lambda w: w.generate(["w4"], 2, images=[[PICTURE]]),
        "reads no pictures",
    ),
    "pictures as a flat list": (
        lambda w: w.generate(["w4"], 2, images=["a.png"]),
        "expected a list of pictures, got 'a.png'",
    ),
    "a merge without a model": (lambda w: merged(w, model="w4"), "merge takes an encoder"),
    "a hook without its adapters": (
        lambda w: w.with_lora(),
        "has an adapter (Lora) whose parameters are not given",
    ),
    "adapters without their hook": (
        lambda w: w.generate(["w4"], 2, adapters=w.adapters),
        "which has none; put one into it with `with_hook`",
    ),
    "logits without adapters": (
        lambda w: w.language.with_hook(w.lora).logits(
            w.language.params, {"input_ids": np.array([[4]]), "attention_mask": np.array([[1]])}
        ),
        "whose parameters are not given",
    ),
    "a hook that is a text": (lambda w: w.language.with_hook("lora"), "with_hook takes an adapter"),
    "a hook that is a class": (
        lambda w: w.language.with_hook(type(w.lora)),
        "with_hook takes an adapter such as Lora(rank=8)",
    ),
    "a hook that knows no kernel": (
        lambda w: w.language.with_hook(lambda adapter, place, x, y: y),
        r"called as (adapter, place, x, y, kernel), got one that takes (adapter, place, x, y)",
    ),
    "nothing to merge": (lambda w: merged(w, adapters=w.adapters), "has no adapter to merge"),
    "a merge without adapters": (
        lambda w: merged(w, model=w.language.with_hook(w.lora)),
        "whose parameters are not given",
    ),
    "one prompt to score": (lambda w: w.score("w4", ["w5"]), "expected a list of prompts"),
    "one answer a prompt": (
        lambda w: w.score(["w4"], ["w5"]),
        "expected a list of answers to prompt",
    ),
    "one answer": (lambda w: w.score(["w4"], "w5"), "expected a list of lists of answers"),
    "answers of numbers": (lambda w: w.score(["w4"], [[5]]), "an answer to prompt 0"),
    "an empty answer": (lambda w: w.score(["w4"], [[""]]), "an answer has no token"),
    # ---- adapters of other projects
    "a lacking adapter by name": (
        lambda w: interop("import", str(w.folder / "gone"), w.language.params["layers"]),
        "no PEFT adapter at",
    ),
    "adapters that lack a target": (
        lambda w: interop("export", str(w.folder / "out"), w.lora, {}, "base"),
        "the adapter's parameters lack 'query'",
    ),
    "a lacking context by name": (
        lambda w: interop("coop", str(w.folder / "gone")),
        "no CoOp checkpoint at",
    ),
    # ---- trained adapters
    "load no adapter": (lambda w: load_adapter(None), "load_adapter takes a path, got None"),
    "an adapter's seed": (lambda w: load_adapter(w.folder, seed="a"), "seed 'a' must be a whole"),
    "parameters of another size": (
        lambda w: w.resized(),
        "adapter_card.json is not readable as the card of its parameters",
    ),
    "search by one text": (lambda w: w.adapted.search("w4", [PICTURE]), "expected a list of items"),
    "search a path": (lambda w: w.adapted.search(["w4"], w.folder / "a.png"), LISTS),
    "search a path as a text": (lambda w: w.adapted.search(["w4"], str(w.folder / "a.png")), LISTS),
    "search one picture": (lambda w: w.adapted.search(["w4"], Image.fromarray(PICTURE)), LISTS),
    "search one array": (lambda w: w.adapted.search(["w4"], PICTURE), LISTS),
    "search one vector": (lambda w: w.adapted.search(["w4"], np.zeros(8, np.float32)), LISTS),
    "search nothing": (lambda w: w.adapted.search(["w4"], []), "expected at least one item"),
    "a gallery of another width": (
        lambda w: w.adapted.search(["w4"], np.zeros((3, 5), np.float32)),
        "the gallery is float32 [3, 5]; expected pictures, or what embed_images returned",
    ),
    "a gallery of integers": (
        lambda w: w.adapted.search(["w4"], np.zeros((3, 8), np.int64)),
        "the gallery is int64 [3, 8]",
    ),
    "a gallery of NaN": (
        lambda w: w.adapted.search(["w4"], w.adapted.embed_images([PICTURE]) * np.nan),
        "the gallery holds NaN",
    ),
    "the best 0": (lambda w: w.adapted.search(["w4"], [PICTURE], k=0), "k 0 must be at least 1"),
    "the best half": (
        lambda w: w.adapted.search(["w4"], [PICTURE], k=0.5),
        "k 0.5 must be a whole",
    ),
    "embed one text": (lambda w: w.adapted.embed_texts("w4"), "expected a list of items, got 'w4'"),
    "embed numbers": (lambda w: w.adapted.embed_texts([4]), "entry 0 of the items is an int"),
    "embed one path": (lambda w: w.adapted.embed_images(w.folder / "a.png"), LISTS),
    "embed no picture": (lambda w: w.adapted.embed_images([]), "expected at least one item"),
    "classify without classes": (lambda w: w.adapted.classify([PICTURE]), "knows no classes"),
    "one question": (lambda w: w.answering.answer("w4"), "expected a list of questions"),
    "a question of a number": (lambda w: w.answering.answer([4]), "entry 0 of the questions"),
    "one picture for questions": (lambda w: w.answering.answer(["w4"], "a.png"), LISTS),
    "pictures for other questions": (
        lambda w: w.answering.answer(["w4"], [PICTURE, PICTURE]),
        "2 pictures for 1 questions",
    ),
    "a history of texts": (
        lambda w: w.answering.answer(["w4"], history=["w5"]),
        "expected a list of exchanges in history 0",
    ),
    "a history of single texts": (
        lambda w: w.answering.answer(["w4"], history=[["w5"]]),
        "expected a list of exchange in history 0",
    ),
    "a history of threes": (
        lambda w: w.answering.answer(["w4"], history=[[("a", "b", "c")]]),
        "history 0 holds no pair",
    ),
    # ---- the scikit-learn transformer, whose kind of error is ValueError
    "labels of NaN": (lambda w: w.fit(ROWS, np.where(LABELS, np.nan, 1.0)), "NaN"),
    "labels of None": (lambda w: w.fit(ROWS, None), "requires y to be passed"),
    "labels too few": (lambda w: w.fit(ROWS, LABELS[:3]), "inconsistent numbers of samples"),
    "labels that are measures": (lambda w: w.fit(ROWS, ROWS[:, 0]), "Unknown label type"),
    "features of one axis": (lambda w: w.fit(ROWS[0], LABELS[:4]), "Expected 2D array"),
    "features of NaN": (lambda w: w.fit(ROWS * np.nan, LABELS), "NaN"),
    "features of texts": (lambda w: w.fit([["a"]] * 8, LABELS), "could not convert"),
    "no features": (lambda w: w.fit(ROWS[:, :0], LABELS), "0 feature(s)"),
    "a temperature of NaN": (
        lambda w: w.fit(ROWS, LABELS, temperature=float("nan")),
        "temperature",
    ),
    "a temperature of a text": (
        lambda w: w.fit(ROWS, LABELS, temperature="1"),
        "temperature is '1'",
    ),
    "a temperature without end": (
        lambda w: w.fit(ROWS, LABELS, temperature=float("inf")),
        "temperature is inf; expected a finite number of at least 0.01",
    ),
    "a rate without end": (
        lambda w: w.fit(ROWS, LABELS, learning_rate=float("inf")),
        "learning_rate is inf; expected a number above 0",
    ),
    "a decay without end": (
        lambda w: w.fit(ROWS, LABELS, weight_decay=float("inf")),
        "weight_decay is inf; expected at least 0",
    ),
    "a dropout of None": (lambda w: w.fit(ROWS, LABELS, dropout=None), "dropout is None"),
    "epochs of half": (lambda w: w.fit(ROWS, LABELS, epochs=1.5), "epochs is 1.5"),
    "epochs of True": (lambda w: w.fit(ROWS, LABELS, epochs=True), "epochs is True"),
    "a loss of a list": (lambda w: w.fit(ROWS, LABELS, loss=["supcon"]), "loss is ['supcon']"),
    "widths that are none": (lambda w: w.fit(ROWS, LABELS, widths=4), "widths is 4"),
    "widths of zero": (lambda w: w.fit(ROWS, LABELS, widths=(0, 4)), "widths is (0, 4)"),
    "widths of another sum": (lambda w: w.fit(ROWS, LABELS, widths=(1, 1)), "make another sum"),
    "normalize as a text": (lambda w: w.fit(ROWS, LABELS, normalize="yes"), "normalize is 'yes'"),
}

# What looks like a mistake and is none: these calls give a result.
GOOD: dict[str, Callable[[Any], bool]] = {
    "a path as a text": lambda w: w.load(str(w.folder / "bert")).embed_dim == w.texts.embed_dim,
    "no texts": lambda w: w.texts.embed_texts([]).shape == (0, w.texts.embed_dim),
    "a tuple of texts": lambda w: w.texts.embed_texts(("w4",)).shape[0] == 1,
    "an array of texts": lambda w: w.texts.embed_texts(np.array(["w4"])).shape[0] == 1,
    "numpy's batch size": lambda w: len(w.texts.embed_texts(["w4"], np.int64(3))) == 1,
    "an array of pictures": lambda w: len(w.images.embed_images(PICTURE[None])) == 1,
    "no prompts": lambda w: w.generate([]) == [],
    "numpy's ids": lambda w: len(w.generate([list(np.array([4, 5]))], 2)) == 1,
    "an array of ids": lambda w: len(w.generate([np.array([4, 5])], 2)) == 1,
    "numpy's count of tokens": lambda w: len(w.generate(["w4"], np.int32(2))) == 1,
    "a gallery that was embedded": lambda w: (
        w.adapted.search(["w4"], w.adapted.embed_images([PICTURE]), k=5)[0][0][0] == 0
    ),
    "pictures by name": lambda w: len(w.adapted.embed_images([str(w.folder / "a.png")])) == 1,
}


def main(folder: Path) -> None:
    """Tries every case; prints {name: [kind of error or "", message]} as JSON."""
    Image.fromarray(PICTURE).save(folder / "a.png")
    world, told = World(folder), {}
    for name, call in {**{n: c for n, (c, _) in CASES.items()}, **GOOD}.items():
        try:
            told[name] = ["", str(call(world))]
        except Exception as error:
            told[name] = [type(error).__name__, str(error)]
    print(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
