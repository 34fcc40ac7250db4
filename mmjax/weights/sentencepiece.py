"""Reads the vocabulary of a sentencepiece model, which is a protobuf message."""

import itertools
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmjax.checks import foreign
from mmjax.errors import WeightsError
from mmjax.weights import vocabulary

_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5
_BPE = 2
_NORMAL = 1
_MOST_FIELDS = 300_000  # pieces, and what stands beside them; Gemma has 262,144
_LONGEST_PIECE = 4 * vocabulary.LONGEST + 64  # bytes of a piece's message: its text and numbers
_IDS = (("unknown", 40, 0), ("bos", 41, 1), ("eos", 42, 2))


def read_sentencepiece(path: Path) -> dict[str, Any]:
    """Reads tokenizer.model.

    Args:
      path: the file.

    Returns:
      The vocabulary under the keys that GGUF files have for it ("tokenizer.ggml.tokens", ...).

    Raises:
      WeightsError: damaged, or not a BPE of sentencepiece's.
    """
    with foreign.reading(path, "a sentencepiece model"):
        data = foreign.read_bytes(path, vocabulary.LARGEST_FILE)
        fields = list(itertools.islice(_fields(data), _MOST_FIELDS + 1))
        if len(fields) > _MOST_FIELDS or any(
            number == 1 and len(value) > _LONGEST_PIECE for number, value in fields
        ):
            raise WeightsError(f"{path} has too many pieces, or one that is too long")
        pieces = [dict(_fields(value)) for number, value in fields if number == 1]
        trainer = dict(_fields(b"".join(value for number, value in fields if number == 2)))
        tokens = [piece[1].decode() for piece in pieces]
        scores = [struct.unpack("<f", piece.get(2, bytes(4)))[0] for piece in pieces]
        types = [piece.get(3, _NORMAL) for piece in pieces]
        if trainer.get(3, 1) != _BPE:
            raise WeightsError(f"{path} is a sentencepiece model, but not a BPE")
        ids = {name: trainer.get(at, default) for name, at, default in _IDS}
        if not tokens or max(ids.values()) >= len(tokens):
            raise WeightsError(f"{path} has {len(tokens)} pieces, fewer than its special ones need")
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.token_type": types,
        **{f"tokenizer.ggml.{name}_token_id": i for name, i in ids.items()},
    }


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of a message: int for varints, bytes for all others."""
    at = 0
    while at < len(data):
        # Most tags and sizes have one byte, and a vocabulary has half a million of them.
        tag, at = (data[at], at + 1) if data[at] < 128 else _varint(data, at)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            value, at = _varint(data, at)
            yield number, value
            continue
        if kind == _BYTES:
            size, at = (data[at], at + 1) if data[at] < 128 else _varint(data, at)
        elif kind in (_EIGHT, _FOUR):
            size = 8 if kind == _EIGHT else 4
        else:
            raise ValueError(f"a field of kind {kind}")
        if at + size > len(data):
            raise ValueError(f"cut short at byte {at}")
        yield number, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError("a number of more than 64 bits")
