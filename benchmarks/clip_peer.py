"""One CLIP of another library, in an interpreter of its own: `clip-forward` starts this file.

  PYTHON clip_peer.py {jimm,flaxclip} FOLDER PIXELS.npy OUT.npy

It loads the folder, writes the embeddings of the pixels, answers "ready SECONDS", and from then on
embeds them once for every line that it reads. It imports nothing of mmjax, which is not there.
"""

import importlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def jimm(folder: str, pixels: Any) -> Callable[[], Any]:
    """The package jax-image-models 0.4.0; its module is split, so that jit gets its weights."""
    jax, nnx = importlib.import_module("jax"), importlib.import_module("flax.nnx")
    model_type = importlib.import_module("jimm").CLIPVisionModel
    mesh = jax.make_mesh((1,), ("fsdp",))  # from_pretrained wants one with an axis of this name
    with jax.set_mesh(mesh):
        model = model_type.from_pretrained(folder)
        graph, state = nnx.split(model)
        run = jax.jit(lambda state, x: nnx.merge(graph, state)(x))
        # Its layers ask the pixels for their mesh.
        pixels = jax.device_put(pixels, jax.NamedSharding(mesh, jax.P(None, None, None, None)))
    jax.block_until_ready(state)

    def embed() -> Any:
        with jax.set_mesh(mesh):
            return run(state, pixels)

    return embed


def flaxclip(folder: str, pixels: Any) -> Callable[[], Any]:
    """The last Flax model of transformers 4."""
    jax, transformers = importlib.import_module("jax"), importlib.import_module("transformers")
    model = transformers.FlaxCLIPModel.from_pretrained(folder)
    nchw = pixels.transpose(0, 3, 1, 2)
    run = jax.jit(lambda params, x: model.get_image_features(pixel_values=x, params=params))
    return lambda: run(model.params, nchw)


def serve(name: str, folder: str, source: str, target: str) -> None:
    """Loads, answers, and embeds once a line."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is no answer
    np = importlib.import_module("numpy")
    pixels = np.load(source)
    began = time.perf_counter()
    embed = {"jimm": jimm, "flaxclip": flaxclip}[name](folder, pixels)
    loading = time.perf_counter() - began
    np.save(Path(target), np.asarray(embed()))
    print(f"ready {loading}", file=answers, flush=True)
    for _ in sys.stdin:
        np.asarray(embed())
        print("done", file=answers, flush=True)


if __name__ == "__main__":
    serve(*sys.argv[1:])
