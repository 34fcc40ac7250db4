"""Is CLIP's image tower as quick as Hugging Face's torch model, and how long does its file load?

  python -m mmjax.bench.clip_forward [--rounds 10] [--batch-size 8]

ViT-B/32 at 224 pixels, random weights, float32. Both sides read one folder that the bench writes,
compute the same pictures, and take turns; torch is needed (the `parity` extra).
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mmjax.encoders import Encoder, load_encoder

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
    import torch

    apply = jax.jit(lambda params, x: encoder.apply(params, {"pixel_values": x}).pooled)
    nchw = torch.tensor(pixels.transpose(0, 3, 1, 2))

    def theirs() -> np.ndarray:
        with torch.inference_mode():
            return model.get_image_features(nchw).pooler_output.numpy()

    return {"mmjax": lambda: np.asarray(apply(encoder.params, pixels)), "torch": theirs}


def spread(values: list[float]) -> str:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.2f} (quartiles {low:.2f} to {high:.2f})"


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=10, help="calls of each side, in turn")
    parser.add_argument("--batch-size", type=int, default=8, help="pictures a call")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = write(Path(folder))
        size = (Path(folder) / "model.safetensors").stat().st_size
        encoder, loading = load(Path(folder))
    shape = (args.batch_size, 224, 224, 3)
    calls = sides(encoder, model, np.random.default_rng(0).standard_normal(shape, np.float32))
    outputs = {name: call() for name, call in calls.items()}  # compiles and warms up
    error = float(np.abs(outputs["mmjax"] - outputs["torch"]).max())
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(args.rounds):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - began)
    print(f"CLIP ViT-B/32 image tower, float32, batch {args.batch_size}, {args.rounds} rounds")
    for name, taken in seconds.items():
        print(f"{name}: {spread([args.batch_size / s for s in taken])} images/s")
    ratios = [t / m for m, t in zip(seconds["mmjax"], seconds["torch"], strict=True)]
    print(f"mmjax / torch: {spread(ratios)}")
    print(f"largest difference of embeddings: {error:.1e}")
    print(f"image tower of a file of {size / 1e6:.0f} MB loaded in {loading:.1f} s")


if __name__ == "__main__":
    main()
