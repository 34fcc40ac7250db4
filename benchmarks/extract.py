"""How many pictures a second does a frozen encoder embed? Random weights, pixels at hand."""

import statistics
from collections.abc import Callable

import jax
import jax.numpy as jnp

from benchmarks.apart import Side, compare
from benchmarks.harness import Grid, Options, Report
from mmjax.encoders.vision import VisionConfig, VisionTransformer

SIZES = {  # hidden size, layers, heads
    "ViT-Ti/14": (192, 12, 3),
    "ViT-S/14": (384, 12, 6),
    "ViT-B/14": (768, 12, 12),
    "ViT-L/14": (1024, 24, 16),
}


def side(name: str, batch: int) -> Callable[[], None]:
    """An encoder of one size; a run embeds the pixels."""
    hidden, layers, heads = SIZES[name]
    config = VisionConfig(hidden, layers, heads, 4 * hidden, 14, 224, 224, layer_scale=True)
    module = VisionTransformer(config)
    pixels = jax.random.normal(jax.random.key(0), (batch, 224, 224, 3), jnp.float32)
    params = jax.jit(module.init)(jax.random.key(1), pixels[:1])["params"]
    embed = jax.jit(lambda params, x: module.apply({"params": params}, x))
    return lambda: (jax.block_until_ready(embed(params, pixels)), None)[1]


def run(options: Options) -> Report:
    """Times encoders of growing size.

    Args:
      options: `full` adds the larger encoders; the first of `batches` replaces a batch of 16.

    Returns:
      Pictures a second, the median over rounds.
    """
    (batch, *_) = options.sizes((16,), (64,))
    rows, samples = [], {}
    for name in list(SIZES) if options.full else list(SIZES)[:2]:
        arguments = {"name": name, "batch": batch}
        comparison = compare([Side(name, "benchmarks.extract:side", arguments)], options)
        rate = 2 * batch / statistics.median(comparison.seconds[name])
        rows.append((name, f"{rate:,.1f}", comparison.refusal or str(comparison.noise)))
        samples[name] = {**comparison.samples(), "batch": batch}
    title = f"Frozen encoder, 224 px, batch {batch}, f32"
    return Report([Grid(title, ("encoder", "pictures/s", "A/A"), tuple(rows))], samples)
