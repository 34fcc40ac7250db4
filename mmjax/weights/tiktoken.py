"""Reads LLaMA 3's tokenizer.model: a line for each token, its bytes in base64 and its rank."""

import base64
from pathlib import Path
from typing import Any

from mmjax.checks import foreign
from mmjax.errors import WeightsError
from mmjax.weights import vocabulary

# The special tokens come after all others, in this order; further ones are reserved.
_SPECIAL = (
    *("<|begin_of_text|>", "<|end_of_text|>"),
    *(f"<|reserved_special_token_{i}|>" for i in range(4)),
    *("<|start_header_id|>", "<|end_header_id|>", "<|reserved_special_token_4|>", "<|eot_id|>"),
)
_NORMAL, _CONTROL = 1, 3


def read_tiktoken(path: Path, vocab_size: int) -> dict[str, Any]:
    """Reads tokenizer.model.

    Args:
      path: the file.
      vocab_size: rows of the model's table of words; what the file lacks are special tokens.

    Returns:
      The vocabulary under the keys that GGUF files have for it ("tokenizer.ggml.tokens", ...).

    Raises:
      WeightsError: damaged, or made for another number of tokens.
    """
    with foreign.reading(path, "a vocabulary of LLaMA 3's"):
        data = foreign.read_bytes(path, vocabulary.LARGEST_FILE)
        if data.count(b"\n") > vocabulary.MOST:
            raise WeightsError(f"{path} has more than {vocabulary.MOST} tokens")
        lines = [line.split() for line in data.split(b"\n") if line.strip()]
        ranks = {base64.b64decode(token, validate=True): int(rank) for token, rank in lines}
    vocabulary.check_lengths(f"{path}: its tokens", list(ranks))
    if sorted(ranks.values()) != list(range(len(lines))):
        raise WeightsError(f"{path} is damaged: its ranks are not 0 to {len(lines) - 1}")
    special = list(_SPECIAL)
    special += [f"<|reserved_special_token_{i - 5}|>" for i in range(10, vocab_size - len(ranks))]
    if len(ranks) + len(special) != vocab_size:
        raise WeightsError(
            f"{path} has {len(ranks)} tokens and {len(special)} special ones, but the model "
            f"{vocab_size}"
        )
    letters = _letters()

    def spelt(token: bytes) -> str:
        return "".join(letters[byte] for byte in token)

    merges = [
        f"{spelt(token[:at])} {spelt(token[at:])}"
        for token in sorted(ranks, key=ranks.__getitem__)
        for at in range(1, len(token))
        if token[:at] in ranks and token[at:] in ranks
    ]
    plain = [spelt(token) for token in sorted(ranks, key=ranks.__getitem__)]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.ggml.tokens": [*plain, *special],
        "tokenizer.ggml.token_type": [_NORMAL] * len(plain) + [_CONTROL] * len(special),
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.bos_token_id": len(plain),
        "tokenizer.ggml.eos_token_id": len(plain) + 1,
        "tokenizer.ggml.eot_token_id": len(plain) + _SPECIAL.index("<|eot_id|>"),
    }


def _letters() -> list[str]:
    """GPT-2's visible letter for every byte."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    substitutes = (chr(256 + i) for i in range(256))
    return [chr(byte) if byte in visible else next(substitutes) for byte in range(256)]
