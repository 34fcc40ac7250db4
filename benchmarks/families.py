"""Is every family as quick as Hugging Face's torch model, and how long does its file load?

Two layers or so of each at its published width, batches of 8, small pictures and short texts,
random weights, float32. Both sides read one folder that the bench writes.

  python -m mmjax.bench families --peer torch
"""

import json
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.apart import Side, compare
from benchmarks.harness import Comparison, Grid, Options, Report, check_equal
from benchmarks.side import thinned
from mmjax.encoders import load_encoder
from mmjax.encoders.language_model import LanguageModel, extend, mix, read_tiles
from mmjax.encoders.mllama_images import MllamaImages
from mmjax.trees import PyTree

Run = Callable[[], np.ndarray]
TOLERANCE = 2e-3  # of the largest number: float32, summed up in another order
LAYERS, SIDE, LENGTH = 2, 112, 32
IMAGE = 100  # the id that stands for a picture
_BASE: Mapping[str, Any] = {
    **{"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12},
    "num_hidden_layers": LAYERS,
}
_LARGE: Mapping[str, Any] = {
    **{"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16},
    **{"num_hidden_layers": LAYERS, "image_size": SIDE, "patch_size": 14},
}
_LLAMA: Mapping[str, Any] = {
    **{"vocab_size": 8000, "hidden_size": 2048, "intermediate_size": 5632},
    **{"num_hidden_layers": LAYERS, "num_attention_heads": 32, "num_key_value_heads": 4},
    **{"tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2},
}
_QWEN2: Mapping[str, Any] = {
    **{"vocab_size": 8000, "hidden_size": 1536, "intermediate_size": 8960},
    **{"num_hidden_layers": LAYERS, "num_attention_heads": 12, "num_key_value_heads": 2},
    **{"tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2},
}
_MROPE = {"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1e6}
_CLIP: Mapping[str, Any] = {
    "projection_dim": 768,
    "text_config": {**_BASE, "vocab_size": 8000, "eos_token_id": 7999, "hidden_act": "quick_gelu"},
    "vision_config": {**_LARGE, "hidden_act": "quick_gelu"},
}
_SIGLIP: Mapping[str, Any] = {
    "text_config": {**_BASE, "vocab_size": 8000, "projection_size": 768, "pad_token_id": 0},
    "vision_config": {**_BASE, "image_size": SIDE, "patch_size": 16},
}


@dataclass(frozen=True)
class Work:
    """A family's forward pass.

    Attributes:
      kind: of config.json, as transformers names the class before "Config".
      config: its arguments.
      reads: what both sides are given: `words`, `pixels`, or `pictures` that each prepares.
      tower: the tower that is loaded, for `load_encoder`; None of a model that has one.
      theirs: the part of torch's model that is called, dotted; "" for all of it.
      said: what is compared of the output, as transformers names it.
      side: of pixels and pictures.
      length: of texts.
    """

    kind: str
    config: Mapping[str, Any]
    reads: str = "words"
    tower: str | None = None
    theirs: str = ""
    said: str = "last_hidden_state"
    side: int = SIDE
    length: int = LENGTH


WORKS: Mapping[str, Work] = {
    "BERT-base": Work("Bert", {**_BASE, "vocab_size": 8000}),
    "CLIP-L, text": Work("CLIP", _CLIP, "words", "text", "get_text_features", "pooler_output"),
    "CLIP-L, image": Work("CLIP", _CLIP, "pixels", "image", "get_image_features", "pooler_output"),
    "DINOv2-base": Work("Dinov2", {**_BASE, "image_size": SIDE, "patch_size": 14}, "pixels"),
    "ViT-B/16": Work("ViT", {**_BASE, "image_size": SIDE, "patch_size": 16}, "pixels"),
    "SigLIP 2-base, image": Work(
        "Siglip", _SIGLIP, "pixels", "image", "get_image_features", "pooler_output"
    ),
    "SigLIP 2-base, text": Work(
        "Siglip", _SIGLIP, "words", "text", "get_text_features", "pooler_output", length=64
    ),
    "DINOv3-base": Work(
        "DINOv3ViT",
        {**_BASE, "image_size": SIDE, "patch_size": 16, "num_register_tokens": 4},
        "pixels",
        said="pooler_output",
    ),
    "LLaMA, 2,048 wide": Work("Llama", _LLAMA),
    "Qwen2, 1,536 wide": Work("Qwen2", _QWEN2),
    "Qwen2-VL, image tower": Work(
        "Qwen2VL",
        {
            "text_config": {**_QWEN2, "num_hidden_layers": 1, "rope_parameters": _MROPE},
            "vision_config": {
                **{"depth": LAYERS, "embed_dim": 1280, "hidden_size": 1536, "num_heads": 16}
            },
            "image_token_id": IMAGE,
            "tie_word_embeddings": True,
        },
        "pictures",
        theirs="visual",
        said="pooler_output",
    ),
    "Llama 3.2 Vision, image tower": Work(
        "Mllama",
        {
            "text_config": {
                **{**_LLAMA, "num_hidden_layers": 2, "cross_attention_layers": [1]},
                "tie_word_embeddings": False,
                **{"hidden_size": 1024, "intermediate_size": 1024, "pad_token_id": 0},
            },
            "vision_config": {
                **{"hidden_size": 1280, "intermediate_size": 5120, "attention_heads": 16},
                **{"num_hidden_layers": LAYERS, "num_global_layers": 1, "image_size": SIDE // 2},
                **{"intermediate_layers_indices": [0], "vision_output_dim": 2560},
            },
            "image_token_index": IMAGE,
        },
        "pictures",
        theirs="vision_model",
        side=SIDE // 2,
    ),
    "LLaVA, whole": Work(
        "Llava",
        {
            "text_config": {**_LLAMA, "model_type": "llama"},
            "vision_config": {
                **{**_LARGE, "num_hidden_layers": LAYERS + 1, "image_size": SIDE // 2},
                "model_type": "clip_vision_model",
            },
            "image_token_index": IMAGE,
            "image_seq_length": 16,
            "tie_word_embeddings": True,
        },
        "pictures",
        side=SIDE // 2,
    ),
}


def write(folder: Path, work: Work, batch: int) -> None:
    """Writes a random checkpoint in Hugging Face's layout, and what both sides read.

    Args:
      folder: where to; `theirs.npz` gets the arguments of torch's model, `ours.npz` the same words
        and pixels or the pictures themselves.
      work: what.
      batch: texts or pictures.
    """
    import torch
    import transformers
    from tokenizers import Tokenizer, models

    torch.manual_seed(0)
    config = getattr(transformers, f"{work.kind}Config")(**work.config)
    names = ("ForConditionalGeneration", "ForCausalLM", "Model")
    wanted = names if work.kind in _DECODERS else ("Model",)
    kind = next(n for name in wanted if hasattr(transformers, n := f"{work.kind}{name}"))
    getattr(transformers, kind)(config).save_pretrained(folder)
    words = {f"w{i}": i for i in range(8)}  # nothing is cut into words here
    Tokenizer(models.WordLevel(words, unk_token="w0")).save(str(folder / "tokenizer.json"))
    square = {"height": work.side, "width": work.side}
    constants = {"size": square, "crop_size": square, "image_mean": [0.5] * 3}
    constants |= {"image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(constants), "utf-8")
    random, side = np.random.default_rng(0), work.side
    ours: dict[str, Any]
    theirs: dict[str, Any]
    if work.reads == "words":
        ids = random.integers(IMAGE + 1, 7999, (batch, work.length))
        ids[:, -1] = 7999  # where a CLIP finds its texts' end
        ours = theirs = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    elif work.reads == "pixels":
        pixels = random.standard_normal((batch, side, side, 3), np.float32)
        ours = {"pixel_values": pixels}
        theirs = {"pixel_values": pixels.transpose(0, 3, 1, 2)}
    else:
        pictures = random.integers(0, 256, (batch, side, side, 3), np.uint8)
        ours, theirs = {"pictures": pictures}, _prepared(folder, work, pictures)
    np.savez(folder / "ours.npz", **ours)
    np.savez(folder / "theirs.npz", **theirs)


_DECODERS = ("Llama", "Qwen2", "Qwen2VL", "Mllama", "Llava")


def _prepared(folder: Path, work: Work, pictures: np.ndarray) -> dict[str, Any]:
    """What transformers' own processor makes of pictures; its constants are saved."""
    from PIL import Image
    from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
    from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    shown = [Image.fromarray(picture) for picture in pictures]
    square = {"height": work.side, "width": work.side}
    if work.kind == "Llava":
        edge: dict[str, Any] = {"size": {"shortest_edge": work.side}, "crop_size": square}
        processor: Any = LlavaImageProcessorPil(**edge)
        made = dict(processor(shown, return_tensors="np"))
        count = (work.side // 14) ** 2
        made["input_ids"] = np.asarray([_prompt(count)] * len(shown))
        made["attention_mask"] = np.ones_like(made["input_ids"])
    elif work.kind == "Mllama":
        processor = MllamaImageProcessorPil(size=square)
        made = dict(processor([[picture] for picture in shown], return_tensors="np"))
        del made["num_tiles"]
    else:
        processor = Qwen2VLImageProcessorPil()
        made = dict(processor(shown, return_tensors="np"))
        made = {"hidden_states": made["pixel_values"], "grid_thw": made["image_grid_thw"]}
    processor.save_pretrained(folder)
    return made


def _prompt(count: int) -> list[int]:
    """A picture of so many tokens among words."""
    return [5, *[IMAGE] * count, *range(200, 200 + LENGTH // 2)]


def ours(folder: str, name: str) -> tuple[Run, dict[str, float]]:
    """The side of mmjax; it says how long loading took."""
    work, began = WORKS[name], time.perf_counter()
    encoder = load_encoder(folder, tower=work.tower)
    jax.block_until_ready(encoder.params)
    loading = time.perf_counter() - began
    with np.load(Path(folder) / "ours.npz") as file:
        given = dict(file)
    if work.reads == "pictures":
        assert isinstance(encoder, LanguageModel)
        call, given = _reading(encoder, work, given["pictures"])
    else:
        pooled = work.said == "pooler_output"

        def embed(params: PyTree, given: Mapping[str, Any]) -> jax.Array:
            found = encoder.apply(params, given)
            return found.pooled if pooled else found.tokens

        call = embed
    jitted = jax.jit(call)
    return lambda: thinned(np.asarray(jitted(encoder.params, given))), {"loading": loading}


def _reading(
    model: LanguageModel, work: Work, pictures: np.ndarray
) -> tuple[Callable[[PyTree, Any], jax.Array], dict[str, np.ndarray]]:
    """(the image tower, or all of a model that mixes pictures and words; what it reads)."""
    module = model.module
    if isinstance(model.images, MllamaImages):
        cut = [model.images.tiles(picture) for picture in pictures]
        given = {"tiles": np.stack([tiles for tiles, _ in cut])}
        given["ratios"] = np.asarray([ratio for _, ratio in cut], np.int32)

        def see(params: PyTree, given: Mapping[str, Any]) -> jax.Array:
            arguments = given["tiles"], given["ratios"]
            seen: Any = module.apply(
                {"params": params}, *arguments, method=lambda m, *a: m.vision(*a)
            )
            return seen

        return see, given
    assert model.images is not None
    mixed: Any = model.images.mix([_prompt(1)] * len(pictures), [[p] for p in pictures])
    given = {"ids": np.stack(mixed.ids), "places": np.stack(mixed.places), "tiles": mixed.tiles}

    def tower(params: PyTree, given: Mapping[str, Any]) -> jax.Array:
        return read_tiles(module, params, given["tiles"])

    def whole(params: PyTree, given: Mapping[str, Any]) -> jax.Array:
        words = mix(module, params, *(given[name] for name in ("ids", "tiles", "places")))
        return extend(module, params, None, words, jnp.ones(words.shape[:2], jnp.int32))[0]

    return (tower if work.theirs else whole), given


def run(options: Options) -> Report:
    """Times every family's forward pass, after checking that both sides say the same.

    Args:
      options: the first of `batches` replaces a batch of 8.

    Returns:
      Seconds of each side, and of loading the files.

    Raises:
      MmjaxError: the sides say something else.
    """
    if options.peer != "torch":
        return Report([Grid("All families: skipped (--peer torch)", (), ())])
    (batch, *_) = options.sizes((8,), (8,))
    report, loading = Report(), []
    for name in WORKS:
        comparison, size = timed(name, batch, options)
        report.grids.append(comparison.grid(f"{name}, batch {batch}, f32"))
        report.lines += comparison.lines(name)
        report.samples[name] = {**comparison.samples(), "bytes": size}
        seconds = (f"{facts['loading']:.2f}" for facts in comparison.facts.values())
        loading.append((name, f"{size / 1e6:.0f} MB", *seconds))
    title = "Loading: mmjax the tower that is timed, torch the whole file"
    report.grids.append(Grid(title, ("family", "file", "mmjax, s", "torch, s"), tuple(loading)))
    return report


def timed(name: str, batch: int, options: Options) -> tuple[Comparison, int]:
    """Both sides of one family, and the bytes of its file."""
    work = WORKS[name]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write(folder, work, batch)
        size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        theirs = {"folder": place, "part": work.theirs, "said": work.said}
        sides = [
            Side("mmjax", "benchmarks.families:ours", {"folder": place, "name": name}),
            Side("torch", "benchmarks.peers.torch_families:side", theirs),
        ]
        check = lambda values: check_equal(values, TOLERANCE)  # noqa: E731
        return compare(sides, options, check), size
