"""config.json and its like: every key that is read, with values of other types and out of range."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmjax.encoders import load_encoder

NAN, INF = float("nan"), float("inf")
# A family's golden, and the tower that is loaded of it.
FAMILIES = {
    **{"bert_tiny": None, "xlmr_tiny": None, "llama_tiny": None, "llama_tied_tiny": None},
    **{"dinov2_tiny": None, "vit_tiny": None, "llava_tiny": None, "llava_next_tiny": None},
    **{"clip_tiny": "text", "chinese_clip_tiny": "text", "altclip_tiny": "image"},
    **{"qwen2_tiny": None, "qwen3_tiny": None, "dinov3_tiny": None, "qwen2_5_vl_tiny": None},
    **{"siglip_tiny": "text", "siglip2_tiny": "text", "dinov2_registers_tiny": None},
    **{"mllama_tiny": None, "gemma3_text_tiny": None, "gemma3_tiny": None},
}
SIZES = frozenset(
    {
        *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "head_dim"),
        *("intermediate_size", "max_position_embeddings", "type_vocab_size", "image_size"),
        *("patch_size", "num_channels", "projection_dim", "project_dim", "num_key_value_heads"),
        *("original_max_position_embeddings", "depth", "num_heads", "out_hidden_size"),
        *("num_patches", "sliding_window", "window_size", "attention_heads", "num_global_layers"),
        *("vision_output_dim", "max_num_tiles", "mm_tokens_per_image"),
    }
)
REALS = frozenset(
    {
        *("layer_norm_eps", "rms_norm_eps", "rope_theta", "factor", "mlp_ratio"),
        *("low_freq_factor", "high_freq_factor", "norm_eps"),
        *("query_pre_attn_scalar", "rope_local_base_freq"),
    }
)
IDS = frozenset({"image_token_index", "image_token_id", "boi_token_index", "eoi_token_index"})
TEXTS = frozenset(
    {"model_type", "hidden_act", "projector_hidden_act", "rope_type", "hidden_activation"}
)
FLAGS = frozenset(
    {
        *("qkv_bias", "attention_bias", "mlp_bias", "tie_word_embeddings", "is_decoder"),
        *("multimodal_projector_bias", "use_swiglu_ffn", "use_gated_mlp", "key_bias"),
        *("use_sliding_window", "vision_use_head", "use_bidirectional_attention"),
    }
)
NO_NUMBER: list[Any] = [NAN, INF, -INF, "7", {}, True, 10**400]
KINDS: dict[frozenset[str], list[Any]] = {
    SIZES: [0, -1, 32.0, 10**12, *NO_NUMBER],
    REALS: [0, -1e-3, 1e30, [1e-5], *NO_NUMBER],
    IDS: [-2, 1.0, 10**12, [1], *NO_NUMBER],
    TEXTS: [3, ["gelu"], {}, "x" * 5_000, NAN],
    FLAGS: [1, "yes", [], NAN],
}
BAD = {key: values for keys, values in KINDS.items() for key in keys}


def paths_of(content: dict[str, Any], prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Where a config has a key that is read."""
    found = []
    for key, value in content.items():
        if isinstance(value, dict) and key.endswith(("_config", "_parameters", "_attention")):
            found += paths_of(value, (*prefix, key))
        elif key in BAD:
            found.append((*prefix, key))
    return found


def config_of(name: str) -> dict[str, Any]:
    goldens = Path(__file__).parents[1] / "goldens"
    with np.load(goldens / f"{name}.npz") as arrays:
        return json.loads(str(arrays["config"]))


TWINS = ("llama_tied_tiny", "llava_tiny", "dinov2_registers_tiny")  # whose keys another one has too
CASES = [(n, path) for n in FAMILIES if n not in TWINS for path in paths_of(config_of(n))]


def replaced(content: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """The content with one value in another's place."""
    if not path:
        return value
    return content | {path[0]: replaced(content.get(path[0], {}), path[1:], value)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory, write_folder):
    """Returns `folders(name)`: a good folder of a golden, made once."""
    place, made = tmp_path_factory.mktemp("configs"), {}

    def make(name):
        if name not in made:
            made[name] = write_folder(place / name, name)
            side = {"mllama_tiny": 8, "gemma3_tiny": 24}.get(name)  # of their own
            if side is not None:
                content = {"size": {"height": side, "width": side}}
                content |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
                (made[name] / "preprocessor_config.json").write_text(json.dumps(content))
        return made[name]

    return make


@pytest.fixture
def of(folders, tmp_path):
    """Returns `of(name, **files)`: a copy of it, with other contents of its JSON files."""

    def make(name, **files):
        path = tmp_path / name
        shutil.copytree(folders(name), path, dirs_exist_ok=True)
        for file, content in files.items():
            (path / f"{file}.json").write_text(json.dumps(content))
        return path

    return make


@pytest.mark.parametrize(("name", "path"), CASES, ids=[f"{n}-{'.'.join(p)}" for n, p in CASES])
def test_a_key_of_another_type_or_out_of_range(name, path, of, refused):
    good = config_of(name)
    for value in BAD[path[-1]]:
        source = of(name, config=replaced(good, path, value))
        message = refused(lambda s=source: load_encoder(s, tower=FAMILIES[name]), "config.json")
        assert path[-1] in message or path[-1] in TEXTS, message
        assert "TypeCheckError" not in message, f"{value!r} is accepted without the tests' checks"


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("bert_tiny", {"model_type": ["bert"]}),
        ("bert_tiny", {"model_type": None}),
        ("bert_tiny", {"hidden_size": None}),
        ("bert_tiny", {"num_attention_heads": 5}),
        ("bert_tiny", {"pad_token_id": 50}),
        ("bert_tiny", {"pad_token_id": -1}),
        ("bert_tiny", {"position_embedding_type": 3}),
        ("xlmr_tiny", {"max_position_embeddings": 2}),
        ("llama_tiny", {"head_dim": 7}),
        ("llama_tiny", {"num_key_value_heads": 3}),
        ("llama_tiny", {"pad_token_id": 10**6}),
        ("llama_tiny", {"eos_token_id": 10**12}),
        ("llama_tiny", {"eos_token_id": [2, 50]}),
        ("llama_tiny", {"eos_token_id": "2"}),
        ("llama_tiny", {"rope_parameters": "linear"}),
        ("llama_tiny", {"rope_parameters": {"rope_type": "linear"}}),
        ("llama_tiny", {"rope_parameters": {"rope_type": ["linear"]}}),
        ("llama_tiny", {"rope_parameters": {"rope_type": "linear", "factor": 0}}),
        ("llama_tiny", {"rope_parameters": {"rope_type": "factors", "factors": [1.0]}}),
        ("llama_tiny", {"rope_parameters": {"rope_type": "factors", "factors": [1, 1, 1, 0]}}),
        ("llama_tiny", {"partial_rotary_factor": NAN}),
        ("qwen2_tiny", {"layer_types": ["full_attention"]}),
        ("qwen2_tiny", {"layer_types": ["full_attention", "chunked_attention"]}),
        ("qwen2_tiny", {"sliding_window": None}),
        ("gemma3_text_tiny", {"layer_types": ["full_attention", "chunked_attention"]}),
        ("gemma3_text_tiny", {"sliding_window": None}),
        ("gemma3_text_tiny", {"sliding_window_pattern": 0}),
        ("gemma3_text_tiny", {"final_logit_softcapping": 30.0}),
        ("gemma3_text_tiny", {"attn_logit_softcapping": "50"}),
        ("gemma3_text_tiny", {"use_bidirectional_attention": True}),
        ("gemma3_text_tiny", {"rope_local_base_freq": 0}),
        ("gemma3_text_tiny", {"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}),
        ("gemma3_text_tiny", {"rope_parameters": {"sliding_attention": ["default"]}}),
        ("gemma3_tiny", {"mm_tokens_per_image": 8}),
        ("gemma3_tiny", {"boi_token_index": 50}),
        ("gemma3_tiny", {"vision_config": {"model_type": "clip_vision_model"}}),
        ("gemma3_tiny", {"text_config": {"model_type": "llama"}}),
        ("dinov3_tiny", {"num_attention_heads": 8}),
        ("dinov3_tiny", {"num_register_tokens": 65}),
        ("qwen2_5_vl_tiny", {"vision_config": {"depth": 2, "spatial_merge_size": 3}}),
        ("vit_tiny", {"image_size": [20, 24]}),
        ("vit_tiny", {"image_size": [20]}),
        ("vit_tiny", {"patch_size": 24}),
        ("clip_tiny", {"vision_config": ["patch_size"]}),
        ("clip_tiny", {"text_config": {"eos_token_id": 50, "vocab_size": 50}}),
        ("clip_tiny", {"text_config_dict": "x"}),
        ("clip_tiny", {"architectures": 3}),
        ("llava_tiny", {"vision_feature_layer": 10**9}),
        ("llava_tiny", {"vision_feature_layer": "last"}),
        ("llava_tiny", {"vision_feature_layer": [[1]]}),
        ("llava_tiny", {"vision_feature_select_strategy": ["default"]}),
        ("llava_tiny", {"image_token_index": 52}),
        ("llava_next_tiny", {"image_grid_pinpoints": [[20]]}),
        ("llava_next_tiny", {"image_grid_pinpoints": [[20, "40"]]}),
        ("llava_next_tiny", {"image_grid_pinpoints": [[20, 20 * 10**6]]}),
    ],
    ids=str,
)
def test_values_that_do_not_go_with_the_others(name, change, of, refused):
    source = of(name, config=config_of(name) | change)
    (key,) = change
    message = refused(lambda: load_encoder(source, tower=FAMILIES[name]), "config.json")
    assert key.removesuffix("_dict") in message or "rope" in message or "eos" in message, message


PICTURES = {
    "image_mean": [[0.5, 0.5], [0.5] * 4, [NAN, 0.5, 0.5], "imagenet", None, [INF] * 3, 0.5],
    "image_std": [[0, 0, 0], [0.2, 0.2, NAN], [-1, 1, 1], [1e-30] * 3, [1, 1], None, 0.2],
    "rescale_factor": [NAN, 0, -1, INF, "1/255", None, [1]],
    "resample": ["bicubic", 9, -1, 3.0, NAN, None],
    "size": [0, -1, 10**9, 20.0, "20", [20], {"shortest_edge": "20"}, {"height": 0, "width": 0}],
    "crop_size": [0, -1, 10**9, "20", [20], {"height": 10**7, "width": 10**7}],
    "do_resize": ["yes", 1],
    "do_center_crop": ["no", None],
}


@pytest.mark.parametrize("key", PICTURES)
@pytest.mark.parametrize("name", ["dinov2_tiny", "clip_tiny", "llava_tiny"])
def test_picture_constants(name, key, of, refused):
    good = json.loads((of(name) / "preprocessor_config.json").read_text())
    tower = "image" if name == "clip_tiny" else None
    for value in PICTURES[key]:
        source = of(name, preprocessor_config=good | {key: value})
        refused(lambda s=source: load_encoder(s, tower=tower), "preprocessor_config.json")


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"null", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000, b" " * (17 << 20)],
    ids=["empty", "cut", "null", "no UTF-8", "nested lists", "nested objects", "17 MB"],
)
@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json"])
def test_files_that_hold_no_object(file, content, of, refused):
    path = of("dinov2_tiny")
    (path / file).write_bytes(content)
    refused(lambda: load_encoder(path), file)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("sentence_bert_config", {"max_seq_length": "long"}),
        ("sentence_bert_config", {"max_seq_length": -1}),
        ("sentence_bert_config", {"max_seq_length": 10**9}),
        ("sentence_bert_config", {"do_lower_case": "no"}),
        ("config_sentence_transformers", {"prompts": {"query": 3}}),
        ("config_sentence_transformers", {"prompts": ["query: "]}),
        ("config_sentence_transformers", {"prompts": {"query": "q" * 10**6}}),
        ("config_sentence_transformers", {"prompts": {}, "default_prompt_name": "query"}),
        ("config_sentence_transformers", {"default_prompt_name": 3}),
        ("tokenizer_config", {"model_max_length": "512"}),
        ("tokenizer_config", {"model_max_length": NAN}),
        ("tokenizer_config", {"model_max_length": 0}),
        ("modules", {"0": "Transformer"}),
        ("modules", [3]),
        ("modules", [{"type": 3, "path": ""}]),
        ("modules", [{"type": "Transformer", "path": 3}]),
        ("modules", [{"type": "Transformer", "path": "../elsewhere"}]),
        ("modules", [{"path": ""}]),
        ("modules", [{"type": "x" * 10**6, "path": ""}]),
        ("modules", [{"type": "Transformer"}] * 10_000),
    ],
    ids=lambda x: x if isinstance(x, str) else str(x)[:60],
)
def test_sentence_transformers_files(file, content, of, refused):
    source = of("bert_tiny", **{file: content})
    refused(lambda: load_encoder(source), f"{file}.json")


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("Pooling", {"pooling_mode_mean_tokens": "yes"}),
        ("Pooling", {"pooling_mode": ["mean"]}),
        ("Dense", {"out_features": 0}),
        ("Dense", {"out_features": "many"}),
        ("Dense", {"bias": "no", "out_features": 8}),
        ("Dense", {"out_features": 10**12}),
        ("Dense", {"activation_function": 3, "out_features": 8}),
        ("Dense", {}),
    ],
    ids=str,
)
def test_sentence_transformers_modules(kind, content, of, refused):
    modules = [{"type": f"sentence_transformers.models.{kind}", "path": "1"}]
    source = of("bert_tiny", modules=modules)
    (source / "1").mkdir()
    (source / "1" / "config.json").write_text(json.dumps(content))
    refused(lambda: load_encoder(source), "config.json")


@pytest.mark.parametrize("name", FAMILIES)
def test_the_good_folder_loads(name, of):
    encoder = load_encoder(of(name), tower=FAMILIES[name])
    assert encoder.hidden_size > 0
