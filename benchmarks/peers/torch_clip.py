"""CLIP's image tower by Hugging Face, in torch."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import CLIPModel


def side(folder: str) -> tuple[Callable[[], np.ndarray], dict[str, float]]:
    """Embeds the folder's pixels.

    Args:
      folder: the checkpoint, and pixels.npy.

    Returns:
      (the run; the seconds that loading took).
    """
    began = time.perf_counter()
    model: Any = CLIPModel.from_pretrained(folder).eval()
    loading = time.perf_counter() - began
    nchw = torch.tensor(np.load(Path(folder) / "pixels.npy").transpose(0, 3, 1, 2))

    def run() -> np.ndarray:
        with torch.inference_mode():
            return model.get_image_features(nchw).pooler_output.numpy()

    return run, {"loading": loading}
