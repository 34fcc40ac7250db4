"""Any of Hugging Face's models, in torch."""

import operator
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModel

from benchmarks.side import thinned


def side(folder: str, part: str, said: str) -> tuple[Callable[[], np.ndarray], dict[str, float]]:
    """Runs a model, or a part of it, on the folder's arguments.

    Args:
      folder: the checkpoint, and theirs.npz with the arguments by name.
      part: dotted name of what is called; "" for the model itself.
      said: which of its outputs is told.

    Returns:
      (the run; the seconds that loading took).
    """
    began = time.perf_counter()
    model: Any = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    loading = time.perf_counter() - began
    call = operator.attrgetter(part)(model) if part else model
    with np.load(Path(folder) / "theirs.npz") as file:
        given = {name: torch.tensor(value) for name, value in file.items()}

    def run() -> np.ndarray:
        with torch.inference_mode():
            return thinned(call(**given)[said].numpy())

    return run, {"loading": loading}
