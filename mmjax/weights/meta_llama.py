"""A LLaMA as Meta publishes it, params.json beside consolidated.NN.pth, under Hugging Face's names.

Each of the files holds one part of a model that was split over as many devices: rows of some
matrices, columns of others, and all of the norms.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from mmjax.checks import foreign
from mmjax.errors import WeightsError, shown
from mmjax.files import read_json_object
from mmjax.weights import sentencepiece, tiktoken
from mmjax.weights.gguf_llama import rotary_halves, tokenizer_of
from mmjax.weights.torch_file import TorchFile

PARAMS = "params.json"
_SHARD = re.compile(r"consolidated\.(\d\d)\.pth")
_BUFFERS = re.compile(r"(.*\.)?rope\.freqs")
# Meta's name -> (Hugging Face's, the axis that the shards split; None: each has all of it).
_NAMES = {
    "norm": ("model.norm", None),
    "output": ("lm_head", 0),
}
_LAYER_NAMES = {
    "attention_norm": ("input_layernorm", None),
    "ffn_norm": ("post_attention_layernorm", None),
    "attention.wq": ("self_attn.q_proj", 0),
    "attention.wk": ("self_attn.k_proj", 0),
    "attention.wv": ("self_attn.v_proj", 0),
    "attention.wo": ("self_attn.o_proj", 1),
    "feed_forward.w1": ("mlp.gate_proj", 0),
    "feed_forward.w2": ("mlp.down_proj", 1),
    "feed_forward.w3": ("mlp.up_proj", 0),
}
_TABLE = "tok_embeddings.weight"
_FIRST = "layers.0.attention.wq.weight"  # its rows say how many shards there are
# Rotary scaling of Llama 3.1, whose params.json says no more than that there is one.
_SCALING = {"rope_type": "llama3", "low_freq_factor": 1.0, "original_max_position_embeddings": 8192}
_LIMITS = {
    **{"dim": foreign.WIDEST, "multiple_of": foreign.WIDEST, "n_layers": foreign.MOST_LAYERS},
    **{"n_heads": foreign.WIDEST, "n_kv_heads": foreign.WIDEST},
}
_MOST_SHARDS = 100  # their names have two digits
_NAMED_FACTOR = 4096  # models narrower than this are Llama 3.2's, which are stretched further


class MetaLlama:
    """The tensors by Hugging Face's names, each put together from its shards when it is read."""

    def __init__(self, folder: Path) -> None:
        """Opens all shards.

        Args:
          folder: holds params.json and the shards.

        Raises:
          WeightsError: no shard or not all of them, a damaged one, one that does not go with the
            others, or a tensor that no LLaMA has.
        """
        self.folder = folder
        self._params = read_json_object(folder / PARAMS)
        shards = {
            int(match[1]): path
            for path in sorted(folder.iterdir())
            if (match := _SHARD.fullmatch(path.name))
        }
        if not shards:
            raise WeightsError(f"{folder} has {PARAMS} but no consolidated.00.pth")
        opened = {number: TorchFile(path) for number, path in shards.items()}
        any_shard = next(iter(opened.values()))
        if not {_FIRST, _TABLE} <= set(any_shard.keys()):
            raise WeightsError(f"{folder}: {_FIRST} or {_TABLE} lacks; the shards hold no LLaMA")
        if any(len(any_shard.header(name)[1]) != 2 for name in (_FIRST, _TABLE)):
            raise WeightsError(f"{folder}: {_FIRST} and {_TABLE} must be matrices")
        count = self._size("dim") // max(any_shard.header(_FIRST)[1][0], 1)
        if not 1 <= count <= _MOST_SHARDS:
            raise WeightsError(
                f"{folder / PARAMS}: dim {self._size('dim')} does not go with the "
                f"{any_shard.header(_FIRST)[1][0]} rows of {_FIRST}"
            )
        lacking = [f"consolidated.{i:02d}.pth" for i in range(count) if i not in opened]
        further = [shards[i].name for i in sorted(shards) if i >= count]
        if lacking or further:
            raise WeightsError(
                f"{folder}: the model was split into {count} shards"
                + (f", of which {', '.join(lacking[:8])} lacks" if lacking else "")
                + (f"; {', '.join(further)} is none of them" if further else "")
            )
        self._shards = [opened[number] for number in range(count)]
        self._sources = self._check()

    def _check(self) -> dict[str, tuple[str, int | None]]:
        """Hugging Face's name -> (Meta's, axis); all shards must hold the same."""
        first = self._shards[0]
        names = set(first.keys())
        for number, shard in enumerate(self._shards):
            differing = names ^ set(shard.keys())
            differing |= {
                n for n in names & set(shard.keys()) if shard.header(n) != first.header(n)
            }
            if differing:
                raise WeightsError(
                    f"{self.folder}: consolidated.{number:02d}.pth and consolidated.00.pth differ "
                    f"in {', '.join(name[:80] for name in sorted(differing)[:5])}"
                )
        return {self._name(n)[0]: (n, self._name(n)[1]) for n in names if not _BUFFERS.fullmatch(n)}

    def _name(self, name: str) -> tuple[str, int | None]:
        if name == _TABLE:
            # Columns up to LLaMA 2, rows since LLaMA 3.
            split = self._shards[0].header(name)[1][1] != self._size("dim")
            return "model.embed_tokens.weight", int(split)
        stem = name.removesuffix(".weight")
        if stem in _NAMES and stem != name:
            theirs, axis = _NAMES[stem]
            return f"{theirs}.weight", axis
        match = re.fullmatch(r"layers\.(\d{1,4})\.(.*)", stem)
        if match is None or match[2] not in _LAYER_NAMES or stem == name:
            raise WeightsError(f"{self.folder}: tensor {shown(name)} has no place in a LLaMA")
        theirs, axis = _LAYER_NAMES[match[2]]
        return f"model.layers.{match[1]}.{theirs}.weight", axis

    def _param(self, key: str) -> Any:
        if key not in self._params:
            raise WeightsError(f"{self.folder / PARAMS} lacks {key!r}")
        return self._params[key]

    def _size(self, key: str) -> int:
        value = self._param(key)
        return foreign.integer(f"{self.folder / PARAMS}: {key}", value, 1, _LIMITS[key])

    def _real(self, key: str, default: float | None = None) -> float:
        value = self._param(key) if default is None else self._params.get(key, default)
        return foreign.real(f"{self.folder / PARAMS}: {key}", value, 0, 1e12, above=0)

    def keys(self) -> list[str]:
        """All tensor names, sorted."""
        return sorted(self._sources)

    def header(self, key: str) -> tuple[str, tuple[int, ...]]:
        """(safetensors' dtype name, shape) of a whole tensor."""
        name, axis = self._sources[key]
        dtype, shape = self._shards[0].header(name)
        if axis is not None:
            shape = (*shape[:axis], shape[axis] * len(self._shards), *shape[axis + 1 :])
        return dtype, shape

    def read(self, key: str) -> np.ndarray:
        """The whole tensor, with rotary rows in the half-split layout."""
        name, axis = self._sources[key]
        parts = [shard.read(name) for shard in self._shards]
        if axis is None and any(not np.array_equal(part, parts[0]) for part in parts[1:]):
            raise WeightsError(f"{self.folder}: the shards do not agree on {name}")
        array = parts[0] if axis is None or len(parts) == 1 else np.concatenate(parts, axis)
        heads = {"q_proj": self._size("n_heads"), "k_proj": self._kv_heads}
        for part, count in heads.items():
            if part in key:
                return rotary_halves(array, count)
        return array

    @property
    def _kv_heads(self) -> int:
        return self._size("n_heads" if self._params.get("n_kv_heads") is None else "n_kv_heads")

    def config(self) -> dict[str, Any]:
        """The content of config.json that params.json and the shapes amount to."""
        params, dim = self._params, self._size("dim")
        theta = self._real("rope_theta", 10000.0)
        config: dict[str, Any] = {
            "model_type": "llama",
            "hidden_size": dim,
            "intermediate_size": self._width(),
            "num_hidden_layers": self._size("n_layers"),
            "num_attention_heads": self._size("n_heads"),
            "num_key_value_heads": self._kv_heads,
            "rms_norm_eps": self._real("norm_eps"),
            "rope_theta": theta,
            "tie_word_embeddings": "lm_head.weight" not in self._sources,
            # LLaMA 1 and 2 say -1, for what the tokenizer has.
            "vocab_size": self.header("model.embed_tokens.weight")[1][0],
        }
        scaled = bool(params.get("use_scaled_rope"))
        if scaled:
            if "rope_scaling_factor" not in params and dim < _NAMED_FACTOR:
                raise WeightsError(
                    f"{self.folder / PARAMS} says use_scaled_rope but not rope_scaling_factor; "
                    "write it in: 32 for Llama 3.2 of 1B or 3B, 8 for Llama 3.1"
                )
            factors = {"factor": self._real("rope_scaling_factor", 8.0)}
            factors["high_freq_factor"] = self._real("rope_high_freq_factor", 4.0)
            config["rope_scaling"] = _SCALING | factors
        # Not said by the file: it is told by what differs between the generations.
        length = 131072 if scaled else 8192 if theta > 10000 else 4096
        if theta == 10000 and self._real("norm_eps") == 1e-6:  # LLaMA 1
            length = 2048
        return config | {"max_position_embeddings": params.get("max_seq_len", length)}

    def _width(self) -> int:
        """The feed-forward width, as Meta's model.py rounds it."""
        width = int(2 * 4 * self._size("dim") / 3)
        if self._params.get("ffn_dim_multiplier") is not None:
            width = int(self._real("ffn_dim_multiplier") * width)
        multiple = self._size("multiple_of")
        return multiple * (-(-width // multiple))

    def tokenizer(self) -> tuple[Tokenizer, dict[str, str], tuple[int, ...]]:
        """The tokenizer in tokenizer.model: sentencepiece's, or since LLaMA 3 a list of tokens.

        Returns:
          (tokenizer, {"bos_token": text, "eos_token": text}, ids that end a text).

        Raises:
          WeightsError: no such file, or one that is of neither kind.
        """
        path = self.folder / "tokenizer.model"
        if not path.is_file():
            raise WeightsError(f"{self.folder} has neither tokenizer.json nor tokenizer.model")
        with path.open("rb") as file:
            listed = file.read(1) not in (b"", b"\n")  # a message begins with its field 1
        words = self.header("model.embed_tokens.weight")[1][0]
        meta = (
            tiktoken.read_tiktoken(path, words)
            if listed
            else sentencepiece.read_sentencepiece(path)
        )
        tokens = meta["tokenizer.ggml.tokens"]
        if len(tokens) > words:
            raise WeightsError(f"{path} has {len(tokens)} tokens but the model only {words}")
        keys = {name: f"tokenizer.ggml.{name}_token_id" for name in ("bos", "eos", "eot")}
        ids: dict[str, int] = {name: meta[key] for name, key in keys.items() if key in meta}
        special = {f"{name}_token": tokens[ids[name]] for name in ("bos", "eos")}
        ends = tuple(i for name, i in ids.items() if name != "bos")
        return tokenizer_of(meta, str(path)), special, ends
