"""CLIPs of other JAX libraries, in interpreters of their own, where mmjax is not."""

import importlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Made = tuple[Callable[[], Any], dict[str, float]]


def jimm(folder: str) -> Made:
    """The package jax-image-models 0.4.0; its module is split, so that jit gets its weights."""
    jax, nnx = importlib.import_module("jax"), importlib.import_module("flax.nnx")
    np, pixels = _pixels(folder)
    model_type = importlib.import_module("jimm").CLIPVisionModel
    began = time.perf_counter()
    mesh = jax.make_mesh((1,), ("fsdp",))  # from_pretrained wants one with an axis of this name
    with jax.set_mesh(mesh):
        model = model_type.from_pretrained(folder)
        graph, state = nnx.split(model)
        embed = jax.jit(lambda state, x: nnx.merge(graph, state)(x))
        # Its layers ask the pixels for their mesh.
        pixels = jax.device_put(pixels, jax.NamedSharding(mesh, jax.P(None, None, None, None)))
    jax.block_until_ready(state)
    loading = time.perf_counter() - began

    def run() -> Any:
        with jax.set_mesh(mesh):
            return np.asarray(embed(state, pixels))

    return run, {"loading": loading}


def flaxclip(folder: str) -> Made:
    """The last Flax model of transformers 4."""
    jax, transformers = importlib.import_module("jax"), importlib.import_module("transformers")
    np, pixels = _pixels(folder)
    began = time.perf_counter()
    model = transformers.FlaxCLIPModel.from_pretrained(folder)
    loading = time.perf_counter() - began
    nchw = pixels.transpose(0, 3, 1, 2)
    embed = jax.jit(lambda params, x: model.get_image_features(pixel_values=x, params=params))
    return lambda: np.asarray(embed(model.params, nchw)), {"loading": loading}


def _pixels(folder: str) -> tuple[Any, Any]:
    np = importlib.import_module("numpy")
    return np, np.load(Path(folder) / "pixels.npy")
