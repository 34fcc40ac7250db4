"""What would 500,000 captions cost an 8B synthesizer, stage by stage, on chips that are not here?

Weights are counted in the shapes of LLaVA-NeXT-Llama3-8B; tokens are those of AdaMLLM (arXiv
2411.19930) and its code. Times are arithmetic: operations at a share of a chip's peak, and for
every decoded token one read of the weights for a batch at a share of its bandwidth.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.harness import Grid, Options, Report
from mmjax import trees
from mmjax.encoders import catalog

LLAVA_NEXT: Mapping[str, Any] = {
    "model_type": "llava_next",
    "image_token_index": 128256,
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default",
    "text_config": {
        "model_type": "llama",
        "vocab_size": 128320,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "max_position_embeddings": 8192,
    },
    "vision_config": {
        "model_type": "clip_vision_model",
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": 336,
        "patch_size": 14,
        "projection_dim": 768,
    },
}
PAIRS, KEPT = 500_000, 0.3
# Tokens a pair: five tiles of 576 patches, a caption, what is written; a task in the judge's prompt
# behind its examples; a composed answer.
TILES, PATCHES, CAPTION, WRITTEN = 5, 576, 200, 250
EXAMPLES, JUDGED, COMPOSED = 1_700, 250, 250
# Shares of the peak and of the bandwidth, and rows that are decoded together.
BUSY, READ, ROWS = 0.4, 0.7, 64
HOUR = 3600


@dataclass(frozen=True)
class Chip:
    """Peak bfloat16 operations, and bytes of its memory, a second."""

    flops: float
    bandwidth: float


CHIPS = {
    "v5e": Chip(197e12, 819e9),
    "v5p": Chip(459e12, 2765e9),
    "H100": Chip(989e12, 3350e9),
}


@dataclass(frozen=True)
class Work:
    """What a stage computes.

    Attributes:
      tokens: that the language model reads or writes.
      flops: of all of them.
      decoded: tokens that are written one by one; their weights are read at each.
    """

    tokens: float
    flops: float
    decoded: float = 0.0


def weights(raw: Mapping[str, Any] = LLAVA_NEXT) -> dict[str, int]:
    """Weights by part; word embeddings are apart from `language`, as none is multiplied by all."""
    family = catalog.find_family(raw, "config.json", None)
    config = family.config(raw)
    module = family.module(config, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)
    example = [jax.ShapeDtypeStruct((1, 1), jnp.int32)] * 2
    shapes = jax.eval_shape(module.init, jax.random.key(0), *example)["params"]
    counts: dict[str, int] = {}
    for path, leaf in trees.named_leaves(shapes):
        part = path.split("/")[0]
        name = {"vision": "vision", "language_model": "language"}.get(part, "projector")
        name = "embeddings" if "embed_tokens" in path else name
        counts[name] = counts.get(name, 0) + leaf.size
    return counts


def stages(size: Mapping[str, int]) -> dict[str, Work]:
    """Tokens and operations of every stage.

    Args:
      size: as `weights` counts.

    Returns:
      Stage -> work. A token costs two operations a weight forward; training frozen layers four and
      all of them six.
    """
    image = TILES * PATCHES
    read, seen = image + CAPTION, 2 * (size["vision"] + size["projector"]) * image
    each = 2 * size["language"]
    trained = image + CAPTION + KEPT * COMPOSED
    return {
        "generate: read": Work(PAIRS * read, PAIRS * (each * read + seen)),
        "generate: write": Work(PAIRS * WRITTEN, PAIRS * each * WRITTEN, PAIRS * WRITTEN),
        "filter, examples read once": Work(PAIRS * JUDGED, PAIRS * each * JUDGED),
        "filter, examples read each time": Work(
            PAIRS * (EXAMPLES + JUDGED), PAIRS * each * (EXAMPLES + JUDGED)
        ),
        "post-train, adapters": Work(PAIRS * trained, PAIRS * (2 * each * trained + seen)),
        "post-train, all weights": Work(PAIRS * trained, 3 * PAIRS * (each * trained + seen)),
    }


def hours(work: Work, chip: Chip, size: Mapping[str, int]) -> float:
    """Hours of one chip: computing, or reading the weights for what is decoded, if that is more."""
    reading = work.decoded / ROWS * 2 * size["language"] / (chip.bandwidth * READ)
    return max(work.flops / (chip.flops * BUSY), reading) / HOUR


def run(options: Options) -> Report:
    """Counts; nothing is timed or allocated.

    Args:
      options: none of them matters here.

    Returns:
      Tokens, operations and chip-hours a stage.
    """
    size = weights()
    rows, samples = [], []
    for name, work in stages(size).items():
        chip_hours = {chip: hours(work, CHIPS[chip], size) for chip in CHIPS}
        samples.append({"stage": name, "tokens": work.tokens, "flops": work.flops, **chip_hours})
        cells = f"{work.tokens / 1e9:.2f}", f"{work.flops / 1e18:.2f}"
        rows.append((name, *cells, *(f"{value:.1f}" for value in chip_hours.values())))
    billions = ", ".join(f"{name} {count / 1e9:.2f}" for name, count in size.items())
    title = (
        f"Chip-hours for {PAIRS:,} captions, LLaVA-NeXT-Llama3-8B ({billions} billion weights), at "
        f"{BUSY:.0%} of the peak, decoding {ROWS} rows at {READ:.0%} of the bandwidth; the paper's "
        "generation and filter: 62.5 hours of an A100"
    )
    columns = ("stage", "10^9 tokens", "10^18 operations", *CHIPS)
    return Report([Grid(title, columns, tuple(rows))], {"stages": samples, "weights": size})
