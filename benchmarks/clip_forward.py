r"""Is CLIP's image tower as quick as Hugging Face's torch model, and how long does its file load?

ViT-B/32 at 224 pixels, random weights, float32. All sides read one folder that the bench writes.
jimm and transformers 4's FlaxCLIP cannot be installed beside mmjax: each runs in an interpreter of
its own (`--peer-python`), one call at a time in turn with the others.

  python -m venv v_jimm && v_jimm/bin/pip install jax-image-models==0.4.0 huggingface_hub
  python -m venv v_flax && v_flax/bin/pip install transformers==4.57.6 jax==0.10.2 flax==0.12.8
  python -m mmjax.bench clip-forward --peer torch \
    --peer-python jimm=v_jimm/bin/python --peer-python flaxclip=v_flax/bin/python
"""

import importlib
import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.harness import Grid, Options, Report, compare
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


class Peer:
    """A peer in an interpreter of its own: calling it embeds the pixels there once.

    Attributes:
      loading: seconds that it took to load the file.
      embeddings: what it said of the pixels.
    """

    def __init__(self, name: str, python: str, folder: Path, pixels: Path) -> None:
        """Starts it and waits until it has embedded the pixels for the first time.

        Raises:
          MmjaxError: it ends before.
        """
        self.name = name
        out = folder / f"{name}.npy"
        script = str(Path(__file__).with_name("clip_peer.py"))
        try:
            self._process = subprocess.Popen(
                [python, "-P", script, name, str(folder), str(pixels), str(out)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        except OSError as error:
            raise MmjaxError(f"--peer-python {name}={python}: {error.strerror}") from error
        self.loading = float(self._answer().removeprefix("ready"))
        self.embeddings = np.load(out)

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise MmjaxError(f"the peer {self.name} ended; what it said stands above")
        return line

    def __call__(self) -> None:
        """Embeds once, there."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        self._answer()

    def close(self) -> None:
        """Ends it."""
        self._process.communicate()


def run(options: Options) -> Report:
    """Times the image tower, after checking that both sides embed alike.

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
    pixels = np.random.default_rng(0).standard_normal((batch, 224, 224, 3), np.float32)
    peers: list[Peer] = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        model = write(folder)
        size = (folder / "model.safetensors").stat().st_size
        encoder, loading = load(folder)
        np.save(folder / "pixels.npy", pixels)
        try:
            for name, python in options.pythons.items():
                peers.append(Peer(name, python, folder, folder / "pixels.npy"))
            calls: dict[str, Callable[[], Any]] = dict(sides(encoder, model, pixels))
            _check_equal(calls["mmjax"](), calls["torch"](), peers)
            if options.peer != "torch":
                del calls["torch"]
            calls |= {peer.name: peer for peer in peers}
            found = compare(calls, options.num_rounds)
        finally:
            for peer in peers:
                peer.close()
    rows = (("mmjax", f"{size / 1e6:.0f} MB", f"{loading:.1f}"),)
    rows += tuple((peer.name, rows[0][1], f"{peer.loading:.1f}") for peer in peers)
    return Report(
        [
            found.grid(f"CLIP ViT-B/32, image tower, batch {batch}, f32"),
            Grid(
                "Loading it (both towers, where a side cannot load one)",
                ("side", "file", "seconds"),
                rows,
            ),
        ],
        {
            **found.samples(),
            "loading": {row[0]: float(row[2]) for row in rows},
            "bytes": size,
            "batch": batch,
        },
    )


def _check_equal(ours: np.ndarray, torch: np.ndarray, peers: Sequence[Peer]) -> None:
    """Refuses to time sides that embed differently."""
    others = {"torch": torch} | {peer.name: peer.embeddings for peer in peers}
    for name, found in others.items():
        if not np.allclose(ours, found, atol=1e-3):
            raise MmjaxError(
                f"mmjax and {name} embed differently (by {np.abs(ours - found).max():.2g}), so "
                "their times say nothing"
            )
