"""How many pictures a second does a frozen encoder embed? Random weights, pixels at hand."""

import time

import jax
import jax.numpy as jnp

from benchmarks.harness import Grid, Options, Report
from mmjax.encoders.vision import VisionConfig, VisionTransformer

SIZES = {  # hidden size, layers, heads
    "ViT-Ti/14": (192, 12, 3),
    "ViT-S/14": (384, 12, 6),
    "ViT-B/14": (768, 12, 12),
    "ViT-L/14": (1024, 24, 16),
}


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
        hidden, layers, heads = SIZES[name]
        config = VisionConfig(hidden, layers, heads, 4 * hidden, 14, 224, 224, layer_scale=True)
        module = VisionTransformer(config)
        pixels = jax.random.normal(jax.random.key(0), (batch, 224, 224, 3), jnp.float32)
        params = jax.jit(module.init)(jax.random.key(1), pixels[:1])["params"]
        embed = jax.jit(lambda params, x, module=module: module.apply({"params": params}, x))
        seconds = []
        for _ in range(options.num_rounds + 1):
            began = time.perf_counter()
            jax.block_until_ready(embed(params, pixels))
            seconds.append(time.perf_counter() - began)
        compiling, *timed = seconds
        rate = batch / sorted(timed)[len(timed) // 2]
        rows.append((name, f"{rate:,.1f}", f"{compiling:.1f}"))
        samples[name] = {"seconds": timed, "first": compiling, "batch": batch}
    grid = Grid(
        f"Frozen encoder, 224 px, batch {batch}, f32",
        ("encoder", "pictures/s", "first call, s"),
        tuple(rows),
    )
    return Report([grid], samples)
