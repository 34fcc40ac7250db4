"""Tiny models with image towers of their own, and records about pictures of several sizes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from tests.tasks.instruct.llava_world import SIZES, record

# Around a picture, and in its place, in each tokenizer; from this number on.
TOKENS = {
    "gemma3_tiny": (47, ("<image_soft_token>", "<start_of_image>", "<end_of_image>")),
    "qwen2_5_vl_tiny": (46, ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>")),
    "mllama_tiny": (50, ("<|image|>",)),
}
TEXTS = (2, 3, 7, 11)  # of the records, so that what is learned and what is asked has some
CONSTANTS: dict[str, dict[str, Any]] = {
    "qwen2_5_vl_tiny": {"patch_size": 4, "size": {"shortest_edge": 200, "longest_edge": 2000}},
    "gemma3_tiny": {"size": {"height": 24, "width": 24}},
    "mllama_tiny": {"size": {"height": 8, "width": 8}, "max_image_tiles": 4},
}


def write_tokenizer(path: Path, name: str) -> None:
    """A tokenizer of 50 words and the model's own tokens for pictures."""
    first, special = TOKENS[name]
    frame = ("[PAD]", "[CLS]", "[SEP]", "[UNK]")
    words = {word: i for i, word in enumerate(frame)}
    words |= {f"w{i}": i for i in range(len(frame), 50)}
    words = {word: i for word, i in words.items() if not first <= i < first + len(special)}
    words |= {token: first + i for i, token in enumerate(special)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(list(special))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A", special_tokens=[("[CLS]", 1)]
    )
    tokenizer.save(str(path))


def write_world(folder: Path, write_folder: Any) -> Path:
    """The models, their pictures, records: some of them are text alone."""
    random = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    for name, constants in CONSTANTS.items():
        place = write_folder(folder / name, name)
        write_tokenizer(place / "tokenizer.json", name)
        constants = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3} | constants
        (place / "preprocessor_config.json").write_text(json.dumps(constants))
    for i, (width, height) in enumerate(SIZES):
        pixels = random.integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    records = [record(i, False) for i in range(12)]
    for i, one in enumerate(records):
        one["images"] = [] if i in TEXTS else [f"{(i + i // 4) % 4}.png"]
    lines = [json.dumps(one) for one in records]
    (folder / "composed.jsonl").write_text("\n".join(lines) + "\n")
    return folder
