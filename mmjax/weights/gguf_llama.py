"""A LLaMA or Qwen in a GGUF file, under Hugging Face's names: tensors, config, tokenizer."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from mmjax.checks import foreign
from mmjax.errors import MmjaxError, WeightsError, shown
from mmjax.weights import gguf, vocabulary

_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_ROPE_FACTORS = "rope_freqs.weight"  # Llama 3.1: what its scaling divides each frequency by
_CONTROL = 3  # a token's type
# Architecture -> (transformers' class, whether rotary rows lie in interleaved pairs).
_ARCHITECTURES = {
    "llama": ("LlamaForCausalLM", True),
    "qwen2": ("Qwen2ForCausalLM", False),
    "qwen3": ("Qwen3ForCausalLM", False),
}
_LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2_SPLIT = _LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")  # digits one by one


class GgufLlama:
    """The tensors by Hugging Face's names, dequantised one at a time when they are read."""

    def __init__(self, path: Path) -> None:
        """Opens the file.

        Args:
          path: the file.

        Raises:
          WeightsError: a damaged file, another architecture, or a tensor that no LLaMA has.
        """
        self.file = gguf.read_gguf(path)
        kind = self.file.metadata.get("general.architecture")
        if not isinstance(kind, str) or kind not in _ARCHITECTURES:
            raise WeightsError(f"{path} holds a {shown(kind)}, not a llama, qwen2 or qwen3")
        self.kind = kind
        self._sources = {self._name(name): name for name in self.file.tensors}
        self._sources.pop("", None)

    def _name(self, name: str) -> str:
        if name == _ROPE_FACTORS:
            return ""
        if name in _NAMES:
            return _NAMES[name]
        parts = name.split(".", 4)
        if len(parts) != 4 or parts[0] != "blk" or parts[2] not in _LAYER_NAMES:
            raise WeightsError(f"{self.file.path}: tensor {shown(name)} has no place in a LLaMA")
        return f"model.layers.{parts[1]}.{_LAYER_NAMES[parts[2]]}.{parts[3]}"

    def keys(self) -> list[str]:
        """All tensor names, sorted."""
        return sorted(self._sources)

    def header(self, key: str) -> tuple[str, tuple[int, ...]]:
        """(dtype as `read_gguf` gives it, shape [out, in]) of a tensor."""
        return "F32", self.file.shapes[self._sources[key]]

    def read(self, key: str) -> np.ndarray:
        """The tensor in float32, with rotary rows in the half-split layout."""
        array = self.file.weight(self._sources[key])
        for part, count in (("q_proj", "head_count"), ("k_proj", "head_count_kv")):
            if part in key and _ARCHITECTURES[self.kind][1]:
                heads = self._size(f"attention.{count}", self._size("attention.head_count"))
                return rotary_halves(array, heads)
        return array

    def _meta(self, key: str, default: Any = None) -> Any:
        value = self.file.metadata.get(f"{self.kind}.{key}", default)
        if value is None:
            raise WeightsError(f"{self.file.path} lacks the key {self.kind}.{key}")
        return value

    def _size(self, key: str, default: int | None = None) -> int:
        where = f"{self.file.path}: {self.kind}.{key}"
        return foreign.integer(where, self._meta(key, default), 1, foreign.MOST_TOKENS)

    def _real(self, key: str, default: float | None = None) -> float:
        return foreign.real(f"{self.file.path}: {self.kind}.{key}", self._meta(key, default))

    def config(self) -> dict[str, Any]:
        """The content of config.json that the metadata amounts to."""
        heads, width = self._size("attention.head_count"), self._size("embedding_length")
        table = self.file.shapes.get("token_embd.weight")
        if table is None or len(table) != 2:
            raise WeightsError(f"{self.file.path} has no matrix token_embd.weight")
        tokens = self.file.metadata.get("tokenizer.ggml.tokens")
        words = table[0] if tokens is None else len(self._tokens())
        config = {
            "architectures": [_ARCHITECTURES[self.kind][0]],
            "model_type": self.kind,
            "hidden_size": width,
            "intermediate_size": self._size("feed_forward_length"),
            "num_hidden_layers": self._meta("block_count"),
            "num_attention_heads": heads,
            "num_key_value_heads": self._size("attention.head_count_kv", heads),
            "head_dim": self._size(self._head_key(), max(width // heads, 1)),
            "hidden_act": "silu",
            "max_position_embeddings": self._size("context_length"),
            # The shortest decimal that is this float32: 1e-05, not 9.99999974e-06.
            "rms_norm_eps": float(str(np.float32(self._real("attention.layer_norm_rms_epsilon")))),
            "rope_theta": self._real("rope.freq_base", 10000.0),
            "attention_bias": False,
            "mlp_bias": False,
            "tie_word_embeddings": "lm_head.weight" not in self._sources,
            "vocab_size": words,
            **self.special_ids(),
        }
        if _ROPE_FACTORS in self.file.tensors:
            factors = self.file.weight(_ROPE_FACTORS).reshape(-1).tolist()
            config["rope_scaling"] = {"rope_type": "factors", "factors": factors}
        elif self.file.metadata.get(f"{self.kind}.rope.scaling.type", "none") != "none":
            kind = self._meta("rope.scaling.type")
            config["rope_scaling"] = {
                "rope_type": kind,
                "factor": self._real("rope.scaling.factor"),
            }
        return config

    def _head_key(self) -> str:
        """Where the channels of a head are said: Qwens have no rope.dimension_count."""
        return "rope.dimension_count" if self.kind == "llama" else "attention.key_length"

    def special_ids(self) -> dict[str, int]:
        """{"bos_token_id": ..., "eos_token_id": ..., "pad_token_id": ...}, as far as known."""
        meta = self.file.metadata
        names = (("bos", "bos"), ("eos", "eos"), ("pad", "padding"))
        keys = {f"{n}_token_id": f"tokenizer.ggml.{name}_token_id" for n, name in names}
        last = (
            foreign.MOST_TOKENS if "tokenizer.ggml.tokens" not in meta else len(self._tokens()) - 1
        )
        return {
            name: foreign.integer(f"{self.file.path}: {key}", meta[key], 0, last)
            for name, key in keys.items()
            if key in meta
        }

    def _tokens(self) -> list[str]:
        where = f"{self.file.path}: tokenizer.ggml.tokens"
        return vocabulary.check_tokens(where, self.file.metadata.get("tokenizer.ggml.tokens"))

    def special_tokens(self) -> dict[str, str]:
        """{"bos_token": text, ...} of `special_ids`."""
        tokens = self._tokens()
        return {n.removesuffix("_id"): tokens[i] for n, i in self.special_ids().items()}

    @property
    def chat_template(self) -> str | None:
        """Jinja text that turns messages into a prompt."""
        template = self.file.metadata.get("tokenizer.chat_template")
        if template is None:
            return None
        return foreign.text(f"{self.file.path}: tokenizer.chat_template", template)

    def tokenizer(self) -> Tokenizer:
        """The file's tokenizer.

        Returns:
          A byte-level BPE or a sentencepiece BPE.

        Raises:
          WeightsError: a kind of vocabulary or of splitting that is not known.
        """
        return tokenizer_of(self.file.metadata, str(self.file.path))


def rotary_halves(weight: np.ndarray, heads: int) -> np.ndarray:
    """Reorders rotary rows from interleaved pairs, as Meta and GGUF have them, to two halves.

    Args:
      weight: [heads * head_dim, in].
      heads: how many heads its rows are.

    Returns:
      The same rows in the order of Hugging Face's checkpoints.
    """
    rows, columns = weight.shape
    pairs = weight.reshape(heads, rows // heads // 2, 2, columns)
    return pairs.swapaxes(1, 2).reshape(rows, columns)


def tokenizer_of(meta: Mapping[str, Any], where: str = "a GGUF file") -> Tokenizer:
    """Makes the tokenizer that a GGUF file's metadata describes.

    Args:
      meta: the metadata.
      where: names its source in messages.

    Returns:
      The tokenizer.

    Raises:
      WeightsError: a key lacks, a vocabulary or a splitting that is not known, or values that do
        not go together.
    """
    with foreign.reading(where, "a tokenizer"):
        try:
            return _made(meta)
        except KeyError as error:
            raise WeightsError(f"{where}: no tokenizer (it lacks {error})") from error
        except (MmjaxError, ValueError) as error:
            raise WeightsError(f"{where}: no tokenizer ({error})") from error


def _made(meta: Mapping[str, Any]) -> Tokenizer:
    kind, split = meta["tokenizer.ggml.model"], meta.get("tokenizer.ggml.pre", "default")
    tokens = vocabulary.check_tokens("tokenizer.ggml.tokens", meta["tokenizer.ggml.tokens"])
    types = meta["tokenizer.ggml.token_type"]
    if not isinstance(types, list) or len(types) != len(tokens):
        raise ValueError(f"tokenizer.ggml.token_type is no list of {len(tokens)}")
    if kind == "gpt2":
        tokenizer = _byte_level(tokens, meta["tokenizer.ggml.merges"], split)
    elif kind == "llama":
        tokenizer = _sentencepiece(meta, tokens)
    else:
        raise ValueError(f"vocabulary {shown(kind)} is not supported; gpt2 or llama")
    special = [token for token, t in zip(tokens, types, strict=True) if t == _CONTROL]
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    if meta.get("tokenizer.ggml.add_bos_token", kind == "llama"):
        bos = meta["tokenizer.ggml.bos_token_id"]
        foreign.integer("tokenizer.ggml.bos_token_id", bos, 0, len(tokens) - 1)
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{tokens[bos]} $A", special_tokens=[(tokens[bos], bos)]
        )
    return tokenizer


def _byte_level(tokens: list[str], merges: list[str], split: str) -> Tokenizer:
    vocabulary.check_tokens("tokenizer.ggml.merges", merges)
    pairs = [(left, right) for left, right in (merge.split(" ") for merge in merges)]
    model = models.BPE({token: i for i, token in enumerate(tokens)}, pairs)
    if split == "llama-bpe":
        model.ignore_merges = True
        first, use_regex = pre_tokenizers.Split(Regex(_LLAMA3_SPLIT), "isolated"), False
    elif split == "qwen2":
        first, use_regex = pre_tokenizers.Split(Regex(_QWEN2_SPLIT), "isolated"), False
    elif split == "smollm":
        first, use_regex = pre_tokenizers.Digits(individual_digits=True), True
    elif split in ("default", "gpt-2"):
        first, use_regex = None, True
    else:
        supported = "smollm, llama-bpe, qwen2 or gpt-2"
        raise ValueError(f"splitting {shown(split)} is not supported; {supported}")
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)
    tokenizer = Tokenizer(model)
    if split == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([first, bytes_] if first else [bytes_])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentencepiece(meta: Mapping[str, Any], tokens: list[str]) -> Tokenizer:
    """Sentencepiece's BPE, whose merges follow from the pieces' scores."""
    scores = meta["tokenizer.ggml.scores"]
    if not isinstance(scores, list) or len(scores) != len(tokens):
        raise ValueError(f"tokenizer.ggml.scores is no list of {len(tokens)}")
    if not np.isfinite(np.array(scores, float)).all():
        raise ValueError("tokenizer.ggml.scores holds NaN or infinite numbers")
    ids = {token: i for i, token in enumerate(tokens)}
    merges = [
        (scores[i], ids[piece[:at]], ids[piece[at:]], piece[:at], piece[at:])
        for piece, i in ids.items()
        for at in range(1, len(piece))
        if piece[:at] in ids and piece[at:] in ids
    ]
    # The best score first; pieces with one score keep the vocabulary's order.
    merges.sort(key=lambda merge: (-merge[0], merge[1], merge[2]))
    unknown = meta.get("tokenizer.ggml.unknown_token_id", 0)
    unknown = tokens[foreign.integer("unknown_token_id", unknown, 0, len(tokens) - 1)]
    model = models.BPE(
        ids, [m[3:] for m in merges], unk_token=unknown, fuse_unk=True, byte_fallback=True
    )
    tokenizer = Tokenizer(model)
    prefix = "always" if meta.get("tokenizer.ggml.add_space_prefix", True) else "never"
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", prefix, split=False)
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if prefix == "always":
        parts.append(decoders.Strip(" ", 1, 0))
    tokenizer.decoder = decoders.Sequence(parts)
    return tokenizer
