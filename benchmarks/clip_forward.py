r"""Is CLIP's image tower as quick as Hugging Face's torch model, and how long does its file load?

ViT-B/32 at 224 pixels, random weights, float32. All sides read one folder that the bench writes.
jimm and transformers 4's FlaxCLIP cannot be installed beside mmjax: each runs in an interpreter of
its own (`--peer-python`).

  python -m venv v_jimm && v_jimm/bin/pip install jax-image-models==0.4.0 huggingface_hub
  python -m venv v_flax && v_flax/bin/pip install transformers==4.57.6 jax==0.10.2 flax==0.12.8
  python -m mmjax.bench clip-forward --peer torch \
    --peer-python jimm=v_jimm/bin/python --peer-python flaxclip=v_flax/bin/python
"""

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.apart import Side, compare
from benchmarks.harness import Grid, Options, Report, check_equal
from mmjax.encoders import Encoder, load_encoder

PIXELS = {
    "size": {"shortest_edge": 224},
    "crop_size": {"height": 224, "width": 224},
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}


def write(folder: Path, batch: int) -> None:
    """Writes a random CLIP ViT-B/32 in Hugging Face's layout, and the pixels.

    Args:
      folder: where to.
      batch: pictures.
    """
    from transformers import CLIPConfig, CLIPModel

    model: Any = CLIPModel(CLIPConfig())
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PIXELS), "utf-8")
    drawn = np.random.default_rng(0).standard_normal((batch, 224, 224, 3), np.float32)
    np.save(folder / "pixels.npy", drawn)


def load(folder: Path) -> tuple[Encoder, float]:
    """The image tower, and the seconds that loading took with the file in the system's cache."""
    began = time.perf_counter()
    encoder = load_encoder(folder, tower="image")
    jax.block_until_ready(encoder.params)
    return encoder, time.perf_counter() - began


def ours(folder: str) -> tuple[Callable[[], np.ndarray], dict[str, float]]:
    """The side of mmjax; it says how long loading took."""
    encoder, loading = load(Path(folder))
    pixels = np.load(Path(folder) / "pixels.npy")
    apply = jax.jit(lambda params, x: encoder.apply(params, {"pixel_values": x}).pooled)
    return lambda: np.asarray(apply(encoder.params, pixels)), {"loading": loading}


def run(options: Options) -> Report:
    """Times the image tower, after checking that all sides embed alike.

    Args:
      options: the first of `batches` replaces a batch of 8.

    Returns:
      Seconds of each side, and of loading the file.

    Raises:
      MmjaxError: the sides embed differently.
    """
    if options.peer != "torch" and not options.pythons:
        return Report([Grid("CLIP's image tower: skipped (--peer torch)", (), ())])
    (batch, *_) = options.sizes((8,), (8,))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write(folder, batch)
        size = (folder / "model.safetensors").stat().st_size
        sides = [Side("mmjax", "benchmarks.clip_forward:ours", {"folder": place})]
        if options.peer == "torch":
            sides.append(Side("torch", "benchmarks.peers.torch_clip:side", {"folder": place}))
        for name, python in options.pythons.items():
            make = f"benchmarks.peers.flax_clips:{name}"
            sides.append(Side(name, make, {"folder": place}, python))
        comparison = compare(sides, options, lambda values: check_equal(values, 1e-3))
    rows = tuple(
        (name, f"{size / 1e6:.0f} MB", f"{facts['loading']:.1f}")
        for name, facts in comparison.facts.items()
    )
    title = "Loading it (both towers, where a side cannot load one)"
    work = f"CLIP ViT-B/32, image tower, batch {batch}"
    return Report(
        [comparison.grid(f"{work}, f32"), Grid(title, ("side", "file", "seconds"), rows)],
        {**comparison.samples(), "bytes": size, "batch": batch},
        comparison.lines(work),
    )
