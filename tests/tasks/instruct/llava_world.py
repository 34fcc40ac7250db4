"""Tiny LLaVAs in Hugging Face's layout, and records about pictures of several sizes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tokenizers import Tokenizer

from mmjax import study
from mmjax.data.conversations import Conversations
from mmjax.data.library import Library
from mmjax.specs.recipe import resolve_recipe
from mmjax.tasks.run import Run

NAMES = ("llava_tiny", "llava_next_tiny")
SIZES = ((70, 30), (24, 61), (35, 33), (14, 9))  # width, height


def record(i: int, caption: bool) -> dict[str, Any]:
    """A caption, and where it is not all a question with its answer; every fourth is blank."""
    told = f"w{10 + i} w{11 + i}"
    turns = [("user", "w5 w6", False), ("assistant", told, True)]
    if not caption:
        turns += [("user", f"w7 w{20 + i % 4}", False), ("assistant", f"w{30 + i % 4}", True)]
    said = [{"role": role, "text": text, "loss": loss} for role, text, loss in turns]
    image = "blank:" if i % 4 == 3 else f"{i % 4}.png"
    return {"id": str(i), "images": [image], "turns": said}


def add_image_token(path: Path) -> None:
    """Gives a tokenizer of 50 words the 51st, which stands for a picture."""
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.add_special_tokens(["<image>"])
    tokenizer.save(str(path))


def write_world(folder: Path, write_folder: Any) -> Path:
    """Both models, their pictures, two files of records."""
    random = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    for name in NAMES:
        add_image_token(write_folder(folder / name, name) / "tokenizer.json")
    for i, (width, height) in enumerate(SIZES):
        pixels = random.integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    for file, caption in (("composed", False), ("captions", True)):
        lines = [json.dumps(record(i, caption)) for i in range(12)]
        (folder / f"{file}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def config(folder: Path, name: str = "llava_tiny", **instruct: Any) -> dict[str, Any]:
    """A recipe of two steps with six rows to learn."""
    return {
        "task": "instruct",
        "seeds": (0,),
        "languages": ("en", "en"),
        "evals": ("held_out",),
        "encoders": {"language": {"source": str(folder / name)}},
        "questions": {
            "source": f"records:{folder / 'composed.jsonl'}",
            "images": str(folder),
            "markers": "vicuna",
            "val_pictures": 2,
            "test_pictures": 4,
            "per_picture": 1,
        },
        "instruct": {"adapter": "lora", "rank": 2, "dropout": 0.0, **instruct},
        "optim": {"lr": 1e-2},
        "train": {
            **{"steps": 2, "batch_size": 2, "eval_every": 2, "save_every": 1, "log_every": 1},
            **{"select": "none", "cache_features": False},
        },
    }


def runs_of(recipe: dict[str, Any], folder: Path) -> list[Run]:
    """All runs of a recipe."""
    return study.plan(resolve_recipe(recipe), folder)


def library_of(mesh: Any) -> Library:
    """Loads what a run needs."""
    return Library(mesh, ("en", "en"))


def pictures_of(asked: Conversations) -> list[Any]:
    """The picture of each conversation."""
    table: Any = asked.table
    return [table.items[i] for i in asked.images.tolist()]
