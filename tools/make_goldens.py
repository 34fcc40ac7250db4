"""Writes tests/goldens/*.npz: what Hugging Face's torch models say, so that tests need no torch.

    pip install -e .[parity]
    python -m tools.make_goldens            # tiny random models and picture preprocessing
    python -m tools.make_goldens --real     # also a few outputs of the assets' real weights

A tiny golden holds config.json as text, all tensors under "tensor:NAME" and inputs and outputs, so
that a test can write a whole checkpoint folder from it. Random numbers are seeded; embeddings and
layer scales are drawn like real ones (std 0.02), because only small activations show a wrong
epsilon.
"""

import argparse
import collections
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AltCLIPConfig,
    AltCLIPModel,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    ChineseCLIPConfig,
    ChineseCLIPModel,
    CLIPConfig,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
    ViTConfig,
    ViTModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import (
    LlavaNextImageProcessorPil,
)

GOLDENS = Path(__file__).parents[1] / "tests" / "goldens"
SIZES: dict[str, Any] = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4}
# Short enough that the stretching shows within the positions of a tiny model.
LLAMA3: dict[str, Any] = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}


def randomize(model: torch.nn.Module, seed: int) -> None:
    """Draws every tensor; the norms and scales too, whose defaults of 0 and 1 hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.named_parameters():
        if not tensor.ndim:  # CLIP's logit_scale
            continue
        noise = torch.randn(tensor.shape, generator=generator)
        scaled = "lambda1" in name or (
            any(part in name.lower() for part in ("norm", "layrnorm", "pre_ln"))
            and name.endswith("weight")
        )
        is_kernel = tensor.ndim >= 2 and "embeddings." not in name
        std = tensor[0].numel() ** -0.5 if is_kernel else 0.02
        tensor.data = (0.5 + 0.5 * noise) if scaled else noise * std


def picture(height: int, width: int, seed: int) -> np.ndarray:
    """A picture with edges and gradients, uint8 [height, width, 3]."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    phase = random.uniform(0, 6, 3)
    waves = np.sin(x[..., None] / 7 + phase) + np.cos(y[..., None] / 5 + phase[::-1])
    waves[height // 4 : height // 2, width // 3 : width // 2] = random.uniform(-2, 2, 3)
    return np.clip(waves * 64 + 128, 0, 255).astype(np.uint8)


def save(name: str, model: torch.nn.Module, arrays: dict[str, Any]) -> None:
    """Writes one golden with the model's config and tensors."""
    config: Any = model.config
    tensors = {f"tensor:{key}": value.numpy() for key, value in model.state_dict().items()}
    text = json.dumps(config.to_dict(), sort_keys=True)
    np.savez_compressed(GOLDENS / f"{name}.npz", config=np.array(text), **tensors, **arrays)
    print(f"{name}: {(GOLDENS / f'{name}.npz').stat().st_size} bytes")


def text_golden(name: str, model: torch.nn.Module, pad: int, seed: int) -> None:
    """A tiny text model on a padded batch."""
    randomize(model, seed)
    random = np.random.default_rng(seed)
    lengths = np.array([9, 4, 1, 7])
    mask = (np.arange(9)[None] < lengths[:, None]).astype(np.int64)
    ids = np.where(mask == 1, random.integers(4, 50, (4, 9)), pad)
    with torch.no_grad():
        hidden = model.eval()(
            input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask)
        ).last_hidden_state.numpy()
    save(name, model, {"input_ids": ids, "attention_mask": mask, "hidden": hidden})


def llama_golden(name: str, seed: int, **changes: Any) -> None:
    """A tiny LLaMA on a batch that is padded on the right."""
    sizes: dict[str, Any] = {"vocab_size": 50, "intermediate_size": 48, **SIZES}
    sizes |= {"num_key_value_heads": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-5}
    model = LlamaForCausalLM(LlamaConfig(**sizes | changes))
    randomize(model, seed)
    model.model.embed_tokens.weight.data *= 0.02 / model.model.embed_tokens.weight.data.std()
    random = np.random.default_rng(seed)
    mask = (np.arange(11)[None] < np.array([11, 4, 1])[:, None]).astype(np.int64)
    ids = np.where(mask == 1, random.integers(4, 50, mask.shape), 0)
    with torch.no_grad():
        outputs: Any = model.eval()(torch.tensor(ids), attention_mask=torch.tensor(mask))
    save(name, model, {"input_ids": ids, "attention_mask": mask, "logits": outputs.logits.numpy()})


# Wide, tall, near a square, smaller than a tile; and (height, width) of the tiles' canvases.
LLAVA_PICTURES = [(30, 70), (61, 24), (33, 35), (9, 14)]
LLAVA_PINPOINTS = [[20, 40], [40, 20], [40, 40], [60, 20], [20, 60]]
LLAVA_PROMPTS = [
    ("w5 <image> w6 w7 <image> w8", [0, 3]),
    ("<image> w9", [1]),
    ("w10 w11 w12", []),
    ("w13 <image> w14 w15 w16", [2]),
]


def llava_golden(tiled: bool) -> None:
    """A tiny LLaVA-1.5 or LLaVA-NeXT on texts with two, one and no picture, padded in front."""
    text: dict[str, Any] = {"vocab_size": 52, "intermediate_size": 48, **SIZES}
    text |= {"num_key_value_heads": 2, "max_position_embeddings": 1024, "rms_norm_eps": 1e-5}
    vision: dict[str, Any] = {"num_hidden_layers": 3, "num_attention_heads": 4, "hidden_size": 24}
    vision |= {"intermediate_size": 48, "image_size": 20, "patch_size": 4}
    shared: dict[str, Any] = {"text_config": {"model_type": "llama", **text}}
    shared |= {"vision_config": {"model_type": "clip_vision_model", **vision}}
    shared |= {"image_token_index": 50, "image_seq_length": 25}
    words = {"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "[UNK]": 3}
    words |= {f"w{i}": i for i in range(4, 50)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]")
    fast.padding_side = "left"
    fast.add_special_tokens({"additional_special_tokens": ["<image>"]})
    pixels: dict[str, Any] = {"size": {"shortest_edge": 20}, "crop_size": 20}
    pixels |= {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}  # as the tests' folders
    processor: Any
    options: dict[str, Any] = {"patch_size": 4, "vision_feature_select_strategy": "default"}
    options |= {"num_additional_image_tokens": 1}
    if tiled:
        pinpoints: dict[str, Any] = {"image_grid_pinpoints": LLAVA_PINPOINTS}
        model: Any = LlavaNextForConditionalGeneration(LlavaNextConfig(**shared, **pinpoints))
        images = LlavaNextImageProcessorPil(**pixels, **pinpoints)
        processor = LlavaNextProcessor(images, fast, **options)
    else:
        model = LlavaForConditionalGeneration(LlavaConfig(**shared))
        processor = LlavaProcessor(LlavaImageProcessorPil(**pixels), fast, **options)
    randomize(model.eval(), 10 + tiled)
    table = model.model.language_model.embed_tokens.weight
    table.data *= 0.02 / table.data.std()
    pictures = [picture(*size, seed=i) for i, size in enumerate(LLAVA_PICTURES)]
    texts, owned = zip(*LLAVA_PROMPTS, strict=True)
    inputs = processor(
        images=[Image.fromarray(pictures[i]) for row in owned for i in row],
        text=list(texts),
        padding=True,
        return_tensors="pt",
    )
    with torch.no_grad():
        logits = model(**inputs).logits.numpy()
    arrays = {f"picture_{i}": x for i, x in enumerate(pictures)}
    arrays |= {"texts": np.array(texts), "owned": np.array(json.dumps(owned))}
    arrays |= {"input_ids": inputs["input_ids"].numpy(), "logits": logits}
    arrays |= {"attention_mask": inputs["attention_mask"].numpy()}
    save("llava_next_tiny" if tiled else "llava_tiny", model, arrays)


def lora_golden() -> None:
    """An adapter of the tiny LLaMA as PEFT saves it, and what PEFT says with it."""
    from peft import LoraConfig, get_peft_model

    with np.load(GOLDENS / "llama_tiny.npz") as file:
        base = dict(file)
    model: Any = LlamaForCausalLM(LlamaConfig(**json.loads(str(base["config"]))))
    prefix = "tensor:"
    tensors = {k.removeprefix(prefix): torch.tensor(v) for k, v in base.items() if prefix in k}
    model.load_state_dict(tensors)
    targets = [f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")]
    config = LoraConfig(
        r=4, lora_alpha=12, lora_dropout=0.05, target_modules=targets, task_type="CAUSAL_LM"
    )
    adapted: Any = get_peft_model(model, config).eval()
    generator = torch.Generator().manual_seed(10)
    for name, tensor in adapted.named_parameters():
        if "lora_" in name:
            tensor.data = torch.randn(tensor.shape, generator=generator) * 0.2
    ids, mask = base["input_ids"], base["attention_mask"]
    with torch.no_grad():
        logits = adapted(torch.tensor(ids), attention_mask=torch.tensor(mask)).logits.numpy()
    with tempfile.TemporaryDirectory() as folder:
        adapted.save_pretrained(folder)
        text = Path(folder, "adapter_config.json").read_text("utf-8")
        saved = load_file(Path(folder, "adapter_model.safetensors"))
    arrays: dict[str, Any] = {f"lora:{name}": tensor for name, tensor in saved.items()}
    arrays |= {"input_ids": ids, "attention_mask": mask, "logits": logits}
    arrays |= {"adapter_config": np.array(text)}
    np.savez_compressed(GOLDENS / "lora_tiny.npz", **arrays)


def dinov2_golden() -> None:
    """A tiny DINOv2 at its own size, above it and below it."""
    model = Dinov2Model(Dinov2Config(**SIZES, image_size=20, patch_size=4))
    randomize(model, 3)
    arrays: dict[str, Any] = {}
    random = np.random.default_rng(3)
    for side in (20, 32, 12):
        pixels = random.standard_normal((2, side, side, 3), dtype=np.float32).astype(np.float16)
        arrays[f"pixels_{side}"] = pixels
        with torch.no_grad():
            nchw = torch.tensor(pixels.astype(np.float32).transpose(0, 3, 1, 2))
            arrays[f"hidden_{side}"] = model.eval()(nchw).last_hidden_state.numpy()
    save("dinov2_tiny", model, arrays)


def ids_of(eos: int, pad: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Padded texts that end in `eos`; the first one holds it twice."""
    random, lengths = np.random.default_rng(seed), np.array([9, 4, 12, 2])
    mask = (np.arange(12)[None] < lengths[:, None]).astype(np.int64)
    ids = random.integers(4, eos - 1, (4, 12))
    ids[np.arange(4), lengths - 1] = eos
    ids[0, 6] = eos
    return np.where(mask == 1, ids, pad), mask


def dual_golden(name: str, model: Any, pad: int, seed: int) -> None:
    """A tiny dual encoder: hidden states and projected embeddings of both towers."""
    randomize(model.eval(), seed)
    ids, mask = ids_of(49, pad, seed)
    pixels = np.random.default_rng(seed).standard_normal((2, 20, 20, 3), np.float32)
    pixels = pixels.astype(np.float16)
    nchw = torch.tensor(pixels.astype(np.float32).transpose(0, 3, 1, 2))
    with torch.no_grad():
        text = model.get_text_features(torch.tensor(ids), torch.tensor(mask))
        image = model.get_image_features(nchw)
    arrays = {"input_ids": ids, "attention_mask": mask, "pixels": pixels}
    arrays |= {"text_hidden": text.last_hidden_state.numpy()}
    arrays |= {"image_hidden": image.last_hidden_state.numpy()}
    arrays |= {"text_pooled": text.pooler_output.numpy()}
    save(name, model, arrays | {"image_pooled": image.pooler_output.numpy()})


def dual_goldens() -> None:
    """CLIP, Chinese-CLIP, AltCLIP."""
    sizes: dict[str, Any] = {"num_hidden_layers": 2, "num_attention_heads": 4}
    text = sizes | {"hidden_size": 32, "intermediate_size": 48, "vocab_size": 50}
    text |= {"max_position_embeddings": 16}
    vision = sizes | {"hidden_size": 24, "intermediate_size": 48, "image_size": 20}
    parts: dict[str, Any] = {"vision_config": vision | {"patch_size": 4}, "projection_dim": 20}
    clip = CLIPConfig(text_config=text | {"eos_token_id": 49}, **parts)
    dual_golden("clip_tiny", CLIPModel(clip), pad=49, seed=4)
    dual_golden(
        "chinese_clip_tiny", ChineseCLIPModel(ChineseCLIPConfig(text_config=text, **parts)), 0, 5
    )
    alt = text | {"project_dim": 28, "type_vocab_size": 1}
    dual_golden("altclip_tiny", AltCLIPModel(AltCLIPConfig(text_config=alt, **parts)), 1, 6)


def vit_golden() -> None:
    """A tiny ViT at its own size and above it."""
    model = ViTModel(ViTConfig(**SIZES, intermediate_size=64, image_size=20, patch_size=4))
    randomize(model.eval(), 7)
    arrays: dict[str, Any] = {}
    for side in (20, 32):
        random = np.random.default_rng(side)
        pixels = random.standard_normal((2, side, side, 3), np.float32).astype(np.float16)
        arrays[f"pixels_{side}"] = pixels
        nchw = torch.tensor(pixels.astype(np.float32).transpose(0, 3, 1, 2))
        with torch.no_grad():
            hidden = model(nchw, interpolate_pos_encoding=True).last_hidden_state
        arrays[f"hidden_{side}"] = hidden.numpy()
    save("vit_tiny", model, arrays)


def classifier_golden(sizes: dict[str, Any]) -> None:
    """Taiyi's form: a BERT whose classifier's output is the embedding."""
    labels: dict[str, Any] = {"num_labels": 12}
    model: Any = BertForSequenceClassification(BertConfig(**sizes, **labels))
    randomize(model.eval(), 8)
    ids, mask = ids_of(49, 0, 8)
    with torch.no_grad():
        output = model(torch.tensor(ids), torch.tensor(mask), output_hidden_states=True)
    arrays = {"input_ids": ids, "attention_mask": mask, "pooled": output.logits.numpy()}
    save("taiyi_tiny", model, arrays | {"hidden": output.hidden_states[-1].numpy()})


def preprocess_golden() -> None:
    """Pictures through transformers' own processor."""
    config: dict[str, Any] = {
        "do_resize": True,
        "size": {"shortest_edge": 32},
        "do_center_crop": True,
        "crop_size": {"height": 28, "width": 28},
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    }
    processor = BitImageProcessorPil(**config)
    arrays: dict[str, Any] = {"config": np.array(json.dumps(config))}
    for i, size in enumerate([(50, 81), (67, 40), (20, 25), (32, 32)]):
        arrays[f"image_{i}"] = picture(*size, seed=i)
        out: Any = processor(Image.fromarray(arrays[f"image_{i}"]), return_tensors="np")
        arrays[f"pixels_{i}"] = out["pixel_values"][0].transpose(1, 2, 0)
    np.savez_compressed(GOLDENS / "image_preprocess.npz", **arrays)


def coop_golden() -> None:
    """A training checkpoint as CoOp's framework saves it: a scheduler lies beside the tensors."""
    torch.manual_seed(21)
    names = {"token_prefix": (3, 1, 8), "token_suffix": (3, 5, 8), "ctx": (4, 8)}
    state = {name: torch.randn(shape) for name, shape in names.items()}
    context = torch.nn.Parameter(state["ctx"])
    optimizer = torch.optim.SGD([context], lr=2e-3, momentum=0.9)
    context.sum().backward()
    optimizer.step()
    scheduler: Any = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 50)
    for name in [n for n, x in vars(optimizer).items() if callable(x)]:
        delattr(optimizer, name)  # newer torch wraps methods, which cannot be pickled
    checkpoint = {
        "state_dict": collections.OrderedDict(state),
        "epoch": 50,
        "optimizer": torch.optim.SGD([context], lr=2e-3).state_dict(),
        "scheduler": {"successor": scheduler, "last_epoch": 1},
        "val_result": None,
    }
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    content = np.frombuffer(buffer.getvalue(), np.uint8)
    np.savez_compressed(GOLDENS / "coop_tiny.npz", checkpoint=content, ctx=state["ctx"].numpy())


def main() -> None:
    """Writes the goldens."""
    parser = argparse.ArgumentParser(description="Writes tests/goldens/*.npz.")
    parser.add_argument("--real", action="store_true", help="also the assets' real weights")
    arguments = parser.parse_args()
    GOLDENS.mkdir(parents=True, exist_ok=True)
    text: dict[str, Any] = {"vocab_size": 50, "intermediate_size": 64, **SIZES}
    bert = BertConfig(**text, max_position_embeddings=16)
    text_golden("bert_tiny", BertModel(bert, add_pooling_layer=True), pad=0, seed=1)
    xlmr = XLMRobertaConfig(
        **text, max_position_embeddings=18, type_vocab_size=1, layer_norm_eps=1e-5, pad_token_id=1
    )
    text_golden("xlmr_tiny", XLMRobertaModel(xlmr, add_pooling_layer=False), pad=1, seed=2)
    roberta = RobertaConfig(**text, max_position_embeddings=18)
    text_golden("roberta_tiny", RobertaModel(roberta), pad=1, seed=9)
    classifier_golden(text | {"max_position_embeddings": 16})
    llama_golden("llama_tiny", 4, rope_parameters=LLAMA3)
    llama_golden("llama_tied_tiny", 5, tie_word_embeddings=True, num_key_value_heads=1)
    llava_golden(tiled=False)
    llava_golden(tiled=True)
    lora_golden()
    dinov2_golden()
    vit_golden()
    dual_goldens()
    preprocess_golden()
    coop_golden()
    if arguments.real:
        from tools import real_goldens

        real_goldens.write()


if __name__ == "__main__":
    main()
