"""One CLIP in OpenAI's, open_clip's and cn_clip's files embeds as Hugging Face's torch does."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmjax import MmjaxError
from mmjax.encoders import load_encoder
from tests.parity.small import (
    PIXELS,
    TEXT,
    VISION,
    differences,
    padded_ids,
    randomize,
    save,
    torch_outputs,
)
from tests.parity.small import TOLERANCE as F32

pytestmark = pytest.mark.parity

# OpenAI's towers have heads of 64.
_TEXT = TEXT | {"hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 1}
_VISION = VISION | {"hidden_size": 128, "intermediate_size": 512, "num_attention_heads": 2}
_PLAIN = {
    **{"text_model.embeddings.token_embedding.weight": "token_embedding.weight"},
    **{"text_model.embeddings.position_embedding.weight": "positional_embedding"},
    **{"vision_model.embeddings.class_embedding": "visual.class_embedding"},
    **{"vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight"},
    **{"vision_model.embeddings.position_embedding.weight": "visual.positional_embedding"},
    "logit_scale": "logit_scale",
}
_PARTS = (
    ("text_model.encoder.layers", "transformer.resblocks"),
    ("vision_model.encoder.layers", "visual.transformer.resblocks"),
    ("layer_norm1", "ln_1"),
    ("layer_norm2", "ln_2"),
    ("mlp.fc1", "mlp.c_fc"),
    ("mlp.fc2", "mlp.c_proj"),
    ("self_attn", "attn"),
    ("text_model.final_layer_norm", "ln_final"),
    ("vision_model.pre_layrnorm", "visual.ln_pre"),
    ("vision_model.post_layernorm", "visual.ln_post"),
)


def openai_names(state: dict[str, Any]) -> dict[str, Any]:
    """Hugging Face's state dict of a CLIP in OpenAI's names and shapes."""
    import torch

    renamed = {}
    for key, value in state.items():
        for ours, theirs in _PARTS:
            key = key.replace(ours, theirs)
        renamed[_PLAIN.get(key, key)] = value
    for key in [k for k in renamed if ".q_proj." in k]:
        names = [key.replace("q_proj", f"{part}_proj") for part in "qkv"]
        fused = torch.cat([renamed.pop(name) for name in names])
        renamed[key.replace("q_proj.", "in_proj_")] = fused
    renamed["visual.proj"] = renamed.pop("visual_projection.weight").T.contiguous()
    renamed["text_projection"] = renamed.pop("text_projection.weight").T.contiguous()
    return renamed


def make(act: str) -> Any:
    """A tiny CLIP whose sizes OpenAI's loader can find."""
    from transformers import CLIPConfig, CLIPModel

    text, vision = _TEXT | {"hidden_act": act}, _VISION | {"hidden_act": act}
    text |= {"eos_token_id": 49}
    return randomize(CLIPModel(CLIPConfig(text_config=text, vision_config=vision)))


def check(source: Path, model: Any, tolerance: float = F32) -> None:
    """Both towers of a source beside the torch model."""
    ids, mask = padded_ids(49, 0)
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
    text, image = (load_encoder(source, tower=tower) for tower in ("text", "image"))
    expected = torch_outputs(model, "get_text_features", **inputs)
    assert max(differences(text, *expected, inputs)) <= tolerance
    expected = torch_outputs(model, "get_image_features", pixel_values=PIXELS)
    assert max(differences(image, *expected, {"pixel_values": PIXELS})) <= tolerance
    assert image.logit_scale == pytest.approx(2.6592)


@pytest.mark.parametrize(
    ("form", "quick"), [("safetensors", True), ("safetensors", False), ("ddp checkpoint", True)]
)
def test_open_clip(form, quick, tmp_path, write_tokenizer):
    import torch
    from safetensors.torch import save_file

    model = make("quick_gelu" if quick else "gelu")
    state = openai_names(model.state_dict())
    if form == "safetensors":
        save_file(state, tmp_path / "open_clip_model.safetensors")
        source = tmp_path
    else:
        state = {f"module.{key}": value for key, value in state.items()}
        source = tmp_path / "epoch_3.pt"
        torch.save({"epoch": 3, "name": "run", "state_dict": state}, source)
    vision = {"image_size": 20, "layers": 2, "width": 128, "patch_size": 4}
    text = {"context_length": 16, "vocab_size": 50, "width": 64, "heads": 1, "layers": 2}
    cfg = {"embed_dim": 512, "vision_cfg": vision, "text_cfg": text}
    cfg |= {"quick_gelu": True} if quick else {}
    described = {"model_cfg": cfg, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(described))
    write_tokenizer(tmp_path / "tokenizer.json")
    check(source, model)


def test_open_clip_models_that_are_no_plain_clip(tmp_path):
    text: dict[str, Any] = {"hf_model_name": "xlm-roberta-base"}
    cfg = {"embed_dim": 8, "vision_cfg": {"timm_model_name": "vit"}, "text_cfg": text}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": cfg}))
    with pytest.raises(MmjaxError, match="timm_model_name is not supported in a CLIP"):
        load_encoder(tmp_path, tower="text")


def archive(state: dict[str, Any], path: Path) -> None:
    """Writes a TorchScript archive whose modules hold the tensors of a state dict."""
    import torch

    root = torch.nn.Module()
    for name, value in state.items():
        *parents, leaf = name.split(".")
        module = root
        for parent in parents:
            if not hasattr(module, parent):
                module.add_module(parent, torch.nn.Module())
            module = getattr(module, parent)
        module.register_buffer(leaf, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated; OpenAI's files are not
        torch.jit.script(root).save(str(path))


@pytest.mark.parametrize("half", [False, True], ids=["f32", "f16"])
def test_openai_archive(half, tmp_path, write_tokenizer):
    import torch

    model = make("quick_gelu")
    state = openai_names(model.state_dict())
    if half:
        state = {k: v.half() if v.ndim > 1 else v for k, v in state.items()}
    sizes = {"input_resolution": 20, "context_length": 16, "vocab_size": 50}
    state |= {name: torch.tensor(size) for name, size in sizes.items()}
    write_tokenizer(tmp_path / "tokenizer.json")
    archive(state, tmp_path / "ViT-T-4.pt")
    check(tmp_path / "ViT-T-4.pt", model, 2e-2 if half else F32)


def test_openai_state_dict_beside_a_config(tmp_path, write_tokenizer):
    import torch

    model = make("quick_gelu")
    save(model, tmp_path, write_tokenizer)
    (tmp_path / "model.safetensors").unlink()
    torch.save(openai_names(model.state_dict()), tmp_path / "clip.pt")
    check(tmp_path / "clip.pt", model)


def test_cn_clip(tmp_path, write_tokenizer):
    import torch
    from transformers import ChineseCLIPConfig, ChineseCLIPModel

    config = ChineseCLIPConfig(text_config=_TEXT, vision_config=_VISION)
    model = randomize(ChineseCLIPModel(config))
    save(model, tmp_path, write_tokenizer)
    (tmp_path / "model.safetensors").unlink()
    state = openai_names(model.state_dict())
    state = {f"module.{k.replace('text_model.', 'bert.')}": v for k, v in state.items()}
    torch.save({"epoch": 1, "state_dict": state}, tmp_path / "pytorch_model.bin")
    check(tmp_path, model)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
def test_torch_files_equal_safetensors(zipped, tmp_path, write_tokenizer):
    import torch

    model = make("quick_gelu")
    save(model, tmp_path, write_tokenizer)
    fingerprint = load_encoder(tmp_path, tower="text").fingerprint
    (tmp_path / "model.safetensors").unlink()
    path = tmp_path / "pytorch_model.bin"
    torch.save(model.state_dict(), path, _use_new_zipfile_serialization=zipped)
    assert load_encoder(tmp_path, tower="text").fingerprint == fingerprint
    names = sorted(model.state_dict())
    shards = {"a.bin": names[::2], "b.bin": names[1::2]}
    for name, keys in shards.items():
        torch.save({key: model.state_dict()[key] for key in keys}, tmp_path / name)
    path.unlink()
    weight_map = {key: name for name, keys in shards.items() for key in keys}
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert load_encoder(tmp_path, tower="text").fingerprint == fingerprint


def test_tower_must_be_said_and_must_exist(tmp_path, write_tokenizer):
    save(make("gelu"), tmp_path, write_tokenizer)
    with pytest.raises(MmjaxError, match="'clip' has two towers; say tower='text'"):
        load_encoder(tmp_path)
    with pytest.raises(MmjaxError, match="no 'sound' tower, only text, image"):
        load_encoder(tmp_path, tower="sound")


def test_bfloat16_keeps_the_logit_scale(tmp_path, write_tokenizer):
    save(make("gelu"), tmp_path, write_tokenizer)
    encoder = load_encoder(tmp_path, "bfloat16", tower="text")
    assert encoder.logit_scale == pytest.approx(2.6592, abs=1e-6)
    assert np.isfinite(encoder.embed_texts(["w5 w6"])).all()
