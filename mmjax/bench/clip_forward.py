"""Is CLIP's image tower as quick as Hugging Face's torch model, and how long does its file load?

ViT-B/32 at 224 pixels, random weights, float32. Both sides read one folder that the bench writes.
"""

import importlib
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mmjax.bench.harness import Grid, Options, Report, compare
from mmjax.encoders import Encoder, load_encoder
from mmjax.errors import MmjaxError

PIXELS = {
    "size": {"shortest_edge": 224},
    "crop_size": {"height": 224, "width": 224},
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}


def write(folder: Path) -> Any:
    """Writes a random CLIP ViT-B/32 in Hugging Face's layout.

    Args:
      folder: where to.

    Returns:
      The torch model.
    """
    from transformers import CLIPConfig, CLIPModel

    model: Any = CLIPModel(CLIPConfig()).eval()
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PIXELS), "utf-8")
    return model


def load(folder: Path) -> tuple[Encoder, float]:
    """The image tower, and the seconds that loading took with the file in the system's cache."""
    began = time.perf_counter()
    encoder = load_encoder(folder, tower="image")
    jax.block_until_ready(encoder.params)
    return encoder, time.perf_counter() - began


def sides(encoder: Encoder, model: Any, pixels: np.ndarray) -> dict[str, Callable[[], np.ndarray]]:
    """One call each of mmjax and torch; both return embeddings on the host."""
    torch: Any = importlib.import_module("torch")  # a peer to measure, not a dependency
    apply = jax.jit(lambda params, x: encoder.apply(params, {"pixel_values": x}).pooled)
    nchw = torch.tensor(pixels.transpose(0, 3, 1, 2))

    def theirs() -> np.ndarray:
        with torch.inference_mode():
            return model.get_image_features(nchw).pooler_output.numpy()

    return {"mmjax": lambda: np.asarray(apply(encoder.params, pixels)), "torch": theirs}


def run(options: Options) -> Report:
    """Times the image tower, after checking that both sides embed alike.

    Args:
      options: the first of `batches` replaces a batch of 8.

    Returns:
      Seconds of each side, and of loading the file.

    Raises:
      MmjaxError: the sides embed differently.
    """
    if options.peer != "torch":
        return Report([Grid("CLIP's image tower: skipped (--peer torch)", (), ())])
    (batch, *_) = options.sizes((8,), (8,))
    with tempfile.TemporaryDirectory() as folder:
        model = write(Path(folder))
        size = (Path(folder) / "model.safetensors").stat().st_size
        encoder, loading = load(Path(folder))
    pixels = np.random.default_rng(0).standard_normal((batch, 224, 224, 3), np.float32)
    calls = sides(encoder, model, pixels)
    ours, theirs = (call() for call in calls.values())
    if not np.allclose(ours, theirs, atol=1e-3):
        raise MmjaxError("the sides embed differently, so their times say nothing")
    found = compare(calls, options.num_rounds)
    return Report(
        [
            found.grid(f"CLIP ViT-B/32, image tower, batch {batch}, f32"),
            Grid("Loading it", ("file", "seconds"), ((f"{size / 1e6:.0f} MB", f"{loading:.1f}"),)),
        ],
        {**found.samples(), "loading": loading, "bytes": size, "batch": batch},
    )
