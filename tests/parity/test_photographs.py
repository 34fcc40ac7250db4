"""Photographs as they come, through every family's preparation and transformers' own in Pillow."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_images

from mmjax.encoders import catalog
from mmjax.encoders.image_preprocess import load_image_preprocess
from mmjax.encoders.llava_images import load_llava_images
from mmjax.encoders.mllama_images import load_mllama_images
from mmjax.encoders.patches import load_patch_preprocess
from mmjax.encoders.qwen_vl_images import load_qwen_images
from mmjax.errors import MmjaxError
from mmjax.plan.encoders import known

pytestmark = pytest.mark.parity

BOUND = 2e-6  # of normalised numbers; a pixel's 1/255 is 0.0145 and more there
LONG = 4000


def file_of(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def photographs() -> dict[str, tuple[bytes, Image.Image]]:
    """Name -> (a file, the upright RGB picture that is in it)."""
    china, flower = (Image.fromarray(pixels) for pixels in load_sample_images().images)
    line = np.asarray(china).reshape(-1, 3)[:LONG]
    grey = china.convert("L")
    wide = np.asarray(grey).astype(np.uint16) * 257  # of which the upper eight bits are kept
    seen = flower.copy()
    seen.putalpha(grey)
    held = Image.Exif()
    held[0x0112] = 6
    turned = file_of(flower, "JPEG", quality=90, exif=held)
    with Image.open(io.BytesIO(turned)) as opened:
        upright = ImageOps.exif_transpose(opened).convert("RGB")
    odd = flower.crop((3, 5, 334, 502))
    pixel = china.crop((99, 99, 100, 100))
    lines = [Image.fromarray(line[None]), Image.fromarray(line[:, None])]
    return {
        "whole": (file_of(china), china),
        "odd": (file_of(odd), odd),
        "1 x 1": (file_of(pixel), pixel),
        "4000 wide": (file_of(lines[0]), lines[0]),
        "4000 high": (file_of(lines[1]), lines[1]),
        "grey": (file_of(grey), grey.convert("RGB")),
        "16 bits": (file_of(Image.fromarray(wide)), grey.convert("RGB")),
        "alpha": (file_of(seen), flower),
        "turned": (turned, upright),
    }


PHOTOGRAPHS = photographs()
Prepare = Callable[[Any], np.ndarray]


def plain(name: str, folder: Any, **options: Any) -> tuple[Prepare, Prepare]:
    """Of families with pictures of one size."""
    import importlib

    part = {"CLIP": "clip", "Bit": "bit", "ViT": "vit", "Siglip": "siglip"}[name]
    module = f"transformers.models.{part}.image_processing_pil_{part}"
    kind = getattr(importlib.import_module(module), f"{name}ImageProcessorPil")
    processor = kind(**options)
    processor.save_pretrained(folder)
    ours = load_image_preprocess(folder, None)

    def theirs(image: Image.Image) -> np.ndarray:
        return processor(image, return_tensors="np")["pixel_values"].transpose(0, 2, 3, 1)

    return lambda file: ours([file]), theirs


def config_of(name: str) -> Any:
    raw = {k: v for k, v in known()[name].items() if k != "crop"}
    return catalog.configure(raw, name, None)[1]


def naflex(folder: Any) -> tuple[Prepare, Prepare]:
    from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

    processor: Any = Siglip2ImageProcessorPil()
    processor.save_pretrained(folder)
    config = catalog.configure({"model_type": "siglip2"}, "config.json", "image")[1]
    ours = load_patch_preprocess(folder, config, {}, None)

    def theirs(image: Image.Image) -> np.ndarray:
        return processor([image], return_tensors="np")["pixel_values"]

    return lambda file: ours([file])[..., :-4], theirs


def qwen(folder: Any) -> tuple[Prepare, Prepare]:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    processor: Any = Qwen2VLImageProcessorPil()
    processor.save_pretrained(folder)
    ours = load_qwen_images(folder, config_of("qwen2-vl-2b-instruct"), {}, None)

    def theirs(image: Image.Image) -> np.ndarray:
        return processor([image], return_tensors="np")["pixel_values"]

    return lambda file: ours.patches(file)[0], theirs


def mllama(folder: Any) -> tuple[Prepare, Prepare]:
    from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil

    processor: Any = MllamaImageProcessorPil(size={"height": 560, "width": 560})
    processor.save_pretrained(folder)
    ours = load_mllama_images(folder, config_of("llama-3.2-11b-vision-instruct"), {}, None)

    def theirs(image: Image.Image) -> np.ndarray:
        return processor([[image]], return_tensors="np")["pixel_values"][0, 0]

    return lambda file: ours.tiles(file)[0].transpose(0, 3, 1, 2), theirs


def llava_next(folder: Any) -> tuple[Prepare, Prepare]:
    from transformers.models.llava_next.image_processing_pil_llava_next import (
        LlavaNextImageProcessorPil,
    )

    edge = {"shortest_edge": 336}
    square = {"height": 336, "width": 336}
    processor: Any = LlavaNextImageProcessorPil(size=edge, crop_size=square)
    processor.save_pretrained(folder)
    ours = load_llava_images(folder, config_of("llama3-llava-next-8b-hf"))

    def theirs(image: Image.Image) -> np.ndarray:
        return processor(image, return_tensors="np")["pixel_values"][0]

    return lambda file: ours.tiles(file).transpose(0, 3, 1, 2), theirs


FAMILIES: dict[str, Callable[[Any], tuple[Prepare, Prepare]]] = {
    "CLIP": lambda folder: plain("CLIP", folder),
    "DINOv2": lambda folder: plain(
        "Bit", folder, size={"shortest_edge": 256}, crop_size={"height": 224, "width": 224}
    ),
    "ViT": lambda folder: plain("ViT", folder),
    "SigLIP": lambda folder: plain("Siglip", folder, size={"height": 384, "width": 384}),
    "SigLIP 2 NaFlex": naflex,
    "Qwen-VL": qwen,
    "Mllama": mllama,
    "LLaVA-NeXT": llava_next,
}
# What lies this far from any proportions would become hundreds of megabytes, or is refused by the
# model's makers too.
REFUSED = {("CLIP", n) for n in ("4000 wide", "4000 high")}
REFUSED |= {(family, n) for family in ("DINOv2", "Qwen-VL") for n in ("4000 wide", "4000 high")}


@pytest.mark.parametrize("family", FAMILIES)
def test_photographs_are_prepared_as_transformers_does(family, tmp_path):
    ours, theirs = FAMILIES[family](tmp_path)
    for name, (file, picture) in PHOTOGRAPHS.items():
        if (family, name) in REFUSED:
            with pytest.raises(MmjaxError, match=r"long and thin|differ at most 200-fold"):
                ours(file)
            continue
        found, wanted = ours(file), theirs(picture)
        assert found.shape == wanted.shape, name
        assert found.dtype == np.float32
        assert np.abs(found - wanted).max() <= BOUND, name
        assert np.ptp(wanted) > 0.1, name  # or any two would be alike
