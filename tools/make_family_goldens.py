"""Writes the goldens of encoder families that tests without torch load; see `make_goldens`.

    pip install -e .[parity]
    python -m tools.make_family_goldens [NAME ...]      # all of them without a name

`clip_resnet_tiny` is made by OpenAI's own model.py, out of the package clip-anytorch, which pip
fetches without its dependencies.
"""

import argparse
import importlib.util
import io
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil
from transformers.models.mllama.processing_mllama import (
    convert_sparse_cross_attention_mask_to_dense,
    get_cross_attention_token_mask,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from tools.make_goldens import GOLDENS, picture, randomize, save

PIXELS: dict[str, Any] = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}  # as the tests' folders
_OPENAI = "clip-anytorch==2.6.0"


def openai_model() -> Any:
    """The module model.py of OpenAI's CLIP."""
    with tempfile.TemporaryDirectory() as place:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", place]
        subprocess.run([*pip, _OPENAI], check=True)
        (wheel,) = Path(place).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            path = Path(archive.extract("clip/model.py", place))
        spec = importlib.util.spec_from_file_location("openai_clip_model", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module


def clip_resnet_golden() -> None:
    """A CLIP of RN50's kind, as an archive of OpenAI's holds it, and what it says."""
    torch.manual_seed(31)
    model: Any = openai_model().CLIP(
        embed_dim=24, image_resolution=64, vision_layers=(2, 1, 2, 1), vision_width=4,
        vision_patch_size=None, context_length=12, vocab_size=50, transformer_width=64,
        transformer_heads=1, transformer_layers=2,
    )  # fmt: skip
    randomize(model, 31)
    generator = torch.Generator().manual_seed(32)
    for name, buffer in model.named_buffers():
        noise = torch.randn(buffer.shape, generator=generator)
        if name.endswith("running_mean"):
            buffer.data = 0.3 * noise
        elif name.endswith("running_var"):
            buffer.data = 0.5 + noise.square()
    model.visual.attnpool.positional_embedding.data *= 0.3
    model.logit_scale.data.fill_(3.0)
    state = dict(model.eval().float().state_dict())
    sizes = {"input_resolution": 64, "context_length": 12, "vocab_size": 50}
    archive = state | {name: torch.tensor(value) for name, value in sizes.items()}
    buffer = io.BytesIO()
    torch.save(archive, buffer)
    random = np.random.default_rng(31)
    pixels = random.standard_normal((3, 64, 64, 3)).astype(np.float32)
    ids = random.integers(4, 48, (3, 12))
    ids[np.arange(3), [5, 11, 2]] = 49
    with torch.no_grad():
        nchw = torch.tensor(pixels).permute(0, 3, 1, 2)
        arrays = {
            "image_embeds": model.encode_image(nchw).numpy(),
            "text_embeds": model.encode_text(torch.tensor(ids)).numpy(),
        }
    arrays |= {"pixel_values": pixels, "input_ids": ids}
    arrays |= {"archive": np.frombuffer(buffer.getvalue(), np.uint8)}
    np.savez_compressed(GOLDENS / "clip_resnet_tiny.npz", **arrays)


SIZES: dict[str, Any] = {"num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 2}
TEXT: dict[str, Any] = {**SIZES, "intermediate_size": 24, "vocab_size": 50}
VISION: dict[str, Any] = {**SIZES, "intermediate_size": 24, "image_size": 20, "patch_size": 4}


def ready(model: torch.nn.Module, seed: int) -> Any:
    """Draws a model's tensors; tables of words as small as real ones."""
    randomize(model, seed)
    for name, tensor in model.named_parameters():
        if "embed_tokens" in name or "lm_head" in name:
            tensor.data *= 0.02 / tensor.data.std()
        elif "logit_" in name:
            tensor.data.fill_(2.0 if "scale" in name else -7.0)
    return model.eval()


def decoder_golden(name: str, kind: str, seed: int, **changes: Any) -> None:
    """A tiny decoder on texts that are padded on the right."""
    sizes = TEXT | {"num_key_value_heads": 1, "max_position_embeddings": 64} | changes
    settings = getattr(transformers, f"{kind}TextConfig", None)
    settings = settings or getattr(transformers, f"{kind}Config")
    model = ready(getattr(transformers, f"{kind}ForCausalLM")(settings(**sizes)), seed)
    mask = (np.arange(11)[None] < np.array([11, 4, 1])[:, None]).astype(np.int64)
    ids = np.where(mask == 1, np.random.default_rng(seed).integers(4, 50, mask.shape), 0)
    with torch.no_grad():
        logits = model(torch.tensor(ids), attention_mask=torch.tensor(mask)).logits.numpy()
    save(name, model, {"input_ids": ids, "attention_mask": mask, "logits": logits})


def siglip_golden(naflex: bool) -> None:
    """A tiny SigLIP or SigLIP 2: texts with their padding, and pictures."""
    kind = "Siglip2" if naflex else "Siglip"
    act = {"hidden_act": "gelu_pytorch_tanh"}
    vision = VISION | act
    if naflex:
        del vision["image_size"]
        vision["num_patches"] = 25
    text = TEXT | act | {"max_position_embeddings": 12, "projection_size": 16, "pad_token_id": 0}
    config = getattr(transformers, f"{kind}Config")(text_config=text, vision_config=vision)
    model = ready(getattr(transformers, f"{kind}Model")(config), 41 + naflex)
    random = np.random.default_rng(41)
    mask = (np.arange(12)[None] < np.array([9, 4, 12])[:, None]).astype(np.int64)
    ids = np.where(mask == 1, random.integers(4, 48, mask.shape), 0)
    arrays: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
    if naflex:
        shapes, width = np.array([[3, 7], [5, 4], [1, 1]]), 21
        pixels = random.standard_normal((3, width, 48)).astype(np.float32)
        real = (np.arange(width)[None] < shapes.prod(1)[:, None]).astype(np.int64)
        inputs = {"pixel_values": pixels * real[..., None], "pixel_attention_mask": real}
        inputs |= {"spatial_shapes": shapes}
        arrays |= inputs
        tensors = {name: torch.tensor(x) for name, x in inputs.items()}
        tensors["pixel_values"] = tensors["pixel_values"].float()
    else:
        pixels = random.standard_normal((3, 20, 20, 3)).astype(np.float32)
        arrays["pixel_values"] = pixels
        tensors = {"pixel_values": torch.tensor(pixels).permute(0, 3, 1, 2)}
    with torch.no_grad():
        arrays["image_embeds"] = model.get_image_features(**tensors).pooler_output.numpy()
        pooled = model.get_text_features(input_ids=torch.tensor(ids)).pooler_output
        arrays["text_embeds"] = pooled.numpy()
    save("siglip2_tiny" if naflex else "siglip_tiny", model, arrays)


def dino_golden(name: str, kind: str, seed: int, **changes: Any) -> None:
    """A tiny DINOv3, or DINOv2 with registers."""
    config = getattr(transformers, f"{kind}Config")(**VISION | changes)
    model = ready(getattr(transformers, f"{kind}Model")(config), seed)
    pixels = np.random.default_rng(seed).standard_normal((2, 20, 20, 3)).astype(np.float32)
    with torch.no_grad():
        output = model(torch.tensor(pixels).permute(0, 3, 1, 2))
    save(name, model, {"pixel_values": pixels, "image_embeds": output.pooler_output.numpy()})


def qwen_vl_golden() -> None:
    """A tiny Qwen2.5-VL on a text with two pictures."""
    text: dict[str, Any] = TEXT | {"num_key_value_heads": 1, "eos_token_id": 2, "bos_token_id": 1}
    text |= {"rope_parameters": {"rope_theta": 1e4, "mrope_section": [1, 2, 1]}}
    text |= {"rms_norm_eps": 1e-6, "max_position_embeddings": 128}
    text["rope_parameters"] |= {"rope_type": "default"}
    vision = {"depth": 2, "num_heads": 2, "patch_size": 4, "hidden_size": 16, "window_size": 16}
    vision |= {"out_hidden_size": 16, "intermediate_size": 24, "fullatt_block_indexes": [1]}
    config = transformers.Qwen2_5_VLConfig(
        text_config=text, vision_config=vision, image_token_id=48, tie_word_embeddings=False
    )
    model = ready(transformers.Qwen2_5_VLForConditionalGeneration(config), 46)
    pictures = [picture(30, 21, 0), picture(9, 40, 1)]
    processor = Qwen2VLImageProcessorPil(
        size={"shortest_edge": 200, "longest_edge": 1000}, patch_size=4, **PIXELS
    )
    inputs: Any = processor([Image.fromarray(x) for x in pictures], return_tensors="pt")
    counts = (inputs["image_grid_thw"].prod(1) // 4).tolist()
    prompt = [5, 48, 6, 7, 48, 8]
    ids = [5, *[48] * counts[0], 6, 7, *[48] * counts[1], 8]
    kinds = torch.tensor([[int(i == 48) for i in ids]])
    with torch.no_grad():
        logits = model(
            input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)),
            mm_token_type_ids=kinds, **inputs,
        ).logits[0].numpy()  # fmt: skip
    arrays = {f"picture_{i}": x for i, x in enumerate(pictures)}
    save("qwen2_5_vl_tiny", model, arrays | {"prompt": np.array(prompt), "logits": logits})


def mllama_golden() -> None:
    """A tiny Llama 3.2 Vision on a text with two pictures."""
    text: dict[str, Any] = TEXT | {"num_key_value_heads": 1, "eos_token_id": 2, "bos_token_id": 1}
    text |= {"rms_norm_eps": 1e-5, "max_position_embeddings": 128, "num_hidden_layers": 3}
    text |= {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}, "pad_token_id": 4}
    text |= {"cross_attention_layers": [1]}
    vision: dict[str, Any] = {"num_hidden_layers": 2, "num_global_layers": 1, "hidden_size": 16}
    vision |= {"attention_heads": 2, "intermediate_size": 24, "image_size": 8, "patch_size": 4}
    vision |= {"intermediate_layers_indices": [0], "vision_output_dim": 32}
    words = text["vocab_size"]
    config = transformers.MllamaConfig(
        text_config=text, vision_config=vision, image_token_index=words
    )
    model = ready(transformers.MllamaForConditionalGeneration(config), 47)
    for name, tensor in model.named_parameters():
        if "gate" in name and tensor.numel() == 1:
            tensor.data = torch.full_like(tensor, 0.7)
    pictures = [picture(30, 21, 0), picture(9, 40, 1)]
    processor = MllamaImageProcessorPil(size={"height": 8, "width": 8}, **PIXELS)
    of_text: Any = [[Image.fromarray(x) for x in pictures]]
    inputs: Any = dict(processor(of_text, return_tensors="pt"))
    prompt = [1, words, 6, 7, words, 8]
    mask = convert_sparse_cross_attention_mask_to_dense(
        [get_cross_attention_token_mask(prompt, words)], inputs.pop("num_tiles"), 4, len(prompt)
    )
    inputs["cross_attention_mask"] = torch.tensor(mask)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt]), **inputs).logits[0].numpy()
    arrays = {f"picture_{i}": x for i, x in enumerate(pictures)}
    save("mllama_tiny", model, arrays | {"prompt": np.array(prompt), "logits": logits})


GEMMA: dict[str, Any] = {"head_dim": 12, "query_pre_attn_scalar": 20, "sliding_window": 4}
GEMMA |= {"sliding_window_pattern": 2, "eos_token_id": 1, "bos_token_id": 2, "pad_token_id": 0}
SCALED = {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6}


def gemma_golden() -> None:
    """A tiny Gemma 3 on a text with two pictures."""
    text: dict[str, Any] = TEXT | GEMMA | {"num_key_value_heads": 1, "max_position_embeddings": 128}
    ropes = {"full_attention": SCALED, "sliding_attention": {"rope_type": "default"}}
    vision = VISION | {"image_size": 24, "vision_use_head": False}
    config = transformers.Gemma3Config(
        text_config=text | {"rope_parameters": ropes}, vision_config=vision, mm_tokens_per_image=9,
        image_token_index=47, boi_token_index=48, eoi_token_index=49,
    )  # fmt: skip
    model = ready(transformers.Gemma3ForConditionalGeneration(config), 49)
    pictures = [picture(24, 24, 0), picture(24, 24, 1)]  # resizing differs from Pillow to Pillow
    processor = Gemma3ImageProcessorPil(size={"height": 24, "width": 24}, **PIXELS)
    of_text: Any = [Image.fromarray(x) for x in pictures]
    pixels = processor(of_text, return_tensors="pt")["pixel_values"]
    prompt = [2, 5, 48, 47, 49, 6, 7, 48, 47, 49, 8]
    ids = torch.tensor([[i for token in prompt for i in [token] * (9 if token == 47 else 1)]])
    with torch.no_grad():
        output = model(
            input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels,
            token_type_ids=(ids == 47).int(),
        )  # fmt: skip
    arrays = {f"picture_{i}": x for i, x in enumerate(pictures)}
    arrays |= {"prompt": np.array(prompt), "logits": output.logits[0].numpy()}
    save("gemma3_tiny", model, arrays)


WINDOWS = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
FAMILIES: dict[str, Callable[[], None]] = {
    "clip_resnet_tiny": clip_resnet_golden,
    "qwen2_tiny": partial(decoder_golden, "qwen2_tiny", "Qwen2", 51, **WINDOWS),
    "qwen3_tiny": partial(
        decoder_golden, "qwen3_tiny", "Qwen3", 52, head_dim=12, tie_word_embeddings=True
    ),
    "gemma3_text_tiny": partial(decoder_golden, "gemma3_text_tiny", "Gemma3", 48, **GEMMA),
    "gemma3_tiny": gemma_golden,
    "siglip_tiny": partial(siglip_golden, False),
    "siglip2_tiny": partial(siglip_golden, True),
    "dinov3_tiny": partial(dino_golden, "dinov3_tiny", "DINOv3ViT", 44, num_register_tokens=2),
    "dinov2_registers_tiny": partial(
        dino_golden, "dinov2_registers_tiny", "Dinov2WithRegisters", 45, num_register_tokens=3,
        mlp_ratio=2,
    ),
    "qwen2_5_vl_tiny": qwen_vl_golden,
    "mllama_tiny": mllama_golden,
}  # fmt: skip


def main() -> None:
    """Writes the goldens."""
    parser = argparse.ArgumentParser(description="Writes goldens of encoder families.")
    parser.add_argument("names", nargs="*", choices=[[], *FAMILIES], help="all where none is given")
    for name in parser.parse_args().names or FAMILIES:
        FAMILIES[name]()
        print(f"{name}: {(GOLDENS / f'{name}.npz').stat().st_size} bytes")


if __name__ == "__main__":
    main()
