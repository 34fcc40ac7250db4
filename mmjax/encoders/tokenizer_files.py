"""Tokenizers from files: read, held against the model's vocabulary, and tried once.

A tokenizer is a program of a kind: it can replace a letter by a million, look for a pattern for
ever, or end in a panic of its Rust library, which no `except Exception` catches.
"""

import base64
import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from mmjax.checks import foreign
from mmjax.errors import MmjaxError, shown
from mmjax.weights import vocabulary

LARGEST_FILE = 1 << 26  # bytes; published ones have up to 34 million
# Letters that one letter of a text may become on its way through all replacements.
_MOST_GROWTH = 4_096
_LONGEST_AFFIX = 64  # letters
_LONGEST_WORD = 1_000  # letters that WordPiece looks through, by the square
_MOST_SPECIAL = 64  # tokens that frame a text
_PROBE = "Two café tables, 12 élèves; 苹果 और 😀\n\tx_1 = f('a')"
_INNER = ("normalizers", "pretokenizers", "decoders", "processors")


def load_tokenizer(folder: Path, vocab_size: int) -> tuple[Tokenizer, str]:
    """Reads the tokenizer of a folder.

    Args:
      folder: holds `tokenizer.json`, or the files of an older tokenizer that transformers converts.
      vocab_size: rows of the model's table of words.

    Returns:
      (the tokenizer, sha256 of its file).

    Raises:
      MmjaxError: no tokenizer, a damaged or hostile one, or one with more tokens than the model.
    """
    path = folder / "tokenizer.json"
    source = path if path.is_file() else folder
    with foreign.reading(source, "a tokenizer", MmjaxError):
        if path.is_file():
            data, tokenizer = foreign.read_bytes(path, LARGEST_FILE), None
        else:
            tokenizer = _converted(folder)
            data = tokenizer.to_str().encode()
        content = foreign.parse_json(source, data)
        _check_steps(source, content)
        tokenizer = tokenizer or Tokenizer.from_buffer(data)
        _check_ids(source, content, tokenizer, vocab_size)
        # Some files have padding to a fixed 128 switched on, which costs ten times the work.
        tokenizer.no_padding()
        tokenizer.no_truncation()
    check_tokenizer(tokenizer, str(folder), vocab_size)
    return tokenizer, hashlib.sha256(data).hexdigest()


def check_tokenizer(tokenizer: Tokenizer, where: str, vocab_size: int) -> None:
    """Holds a tokenizer's tokens against the model's, and tries it.

    Args:
      tokenizer: from any source.
      where: names the source in messages.
      vocab_size: rows of the model's table of words.

    Raises:
      MmjaxError: ids that the model does not have, tokens that are too long, or a tokenizer that
        fails.
    """
    with foreign.reading(where, "a tokenizer", MmjaxError):
        vocab = tokenizer.get_vocab(with_added_tokens=True)
    if len(vocab) > vocab_size or max(vocab.values(), default=0) >= vocab_size:
        count = max(len(vocab), max(vocab.values(), default=0) + 1)
        raise MmjaxError(
            f"{where}: the tokenizer has {count} tokens but the model only {vocab_size}; they do "
            "not belong together"
        )
    words = tokenizer.get_vocab_size(with_added_tokens=False)
    if words < 2:
        raise MmjaxError(f"{where}: the tokenizer has a vocabulary of {words} tokens")
    longest = max(vocab, key=len, default="")
    if len(longest) > vocabulary.LONGEST:
        raise MmjaxError(
            f"{where}: the tokenizer has a token of {len(longest)} letters; at most "
            f"{vocabulary.LONGEST}"
        )
    with guarded(where):
        frame, ids = tokenizer.encode("").ids, _tried(tokenizer)
        tokenizer.decode(ids)
    if len(frame) > _MOST_SPECIAL:
        raise MmjaxError(f"{where}: the tokenizer puts {len(frame)} special tokens around a text")
    if strangers := [i for i in (*frame, *ids) if i >= vocab_size]:
        raise MmjaxError(
            f"{where}: the tokenizer gives the id {strangers[0]}, but the model has {vocab_size} "
            "tokens"
        )


def _tried(tokenizer: Tokenizer) -> list[int]:
    """Ids of a text in several scripts; none where the tokenizer knows no token for one of them."""
    try:
        return tokenizer.encode(_PROBE).ids
    except Exception:  # the library's bare Exception; its panics are none
        return []


@contextlib.contextmanager
def guarded(where: str) -> Iterator[None]:
    """Turns a tokenizer's failure, a panic of its library included, into one sentence.

    Args:
      where: names the tokenizer.

    Raises:
      MmjaxError: it failed.
    """
    try:
        yield
    except (MmjaxError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        raise MmjaxError(
            f"{where}: the tokenizer fails on a text ({foreign.reason(error)})"
        ) from error


def _check_ids(
    path: Path, content: Mapping[str, Any], tokenizer: Tokenizer, vocab_size: int
) -> None:
    """Refuses added tokens that would get other ids than their file says.

    The library gives a token the next free id, whatever its file says.
    """
    for token in content.get("added_tokens") or ():
        where = f"{path}: the id of the added token {shown(token['content'])}"
        foreign.integer(where, token["id"], 0, vocab_size - 1)
        token_id = tokenizer.token_to_id(token["content"])
        if token_id != token["id"]:
            raise MmjaxError(
                f"{where} is {token['id']}, but its place in the vocabulary is {token_id}; number "
                "added tokens from the vocabulary's end on"
            )


def _check_steps(path: Path, content: Any) -> None:
    """Refuses steps that make a text many times longer, and words that are searched for ever."""
    if not isinstance(content, dict):
        raise MmjaxError(f"{path} holds a JSON {type(content).__name__}, expected a tokenizer")
    for part in ("normalizer", "decoder"):
        growth = 1
        for step in _steps(content.get(part)):
            growth *= _growth(f"{path}: {part}", step)
        if growth > _MOST_GROWTH:
            raise MmjaxError(
                f"{path}: its {part} may make {growth} letters of one; at most {_MOST_GROWTH}"
            )
    model, where = content.get("model"), f"{path}: model"
    if not isinstance(model, dict):
        return  # the library says what lacks
    if model.get("dropout"):
        raise MmjaxError(f"{where}.dropout is {shown(model['dropout'])}: tokens would be random")
    if (longest := model.get("max_input_chars_per_word")) is not None:
        foreign.integer(f"{where}.max_input_chars_per_word", longest, 1, _LONGEST_WORD)
    for affix in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(affix) is not None:
            foreign.text(f"{where}.{affix}", model[affix], _LONGEST_AFFIX)


def _steps(component: Any, depth: int = 0) -> Iterator[Mapping[str, Any]]:
    """A step, and those inside of it."""
    if not isinstance(component, dict) or depth > 8:
        return
    yield component
    for name in _INNER:
        for inner in component.get(name) or ():
            yield from _steps(inner, depth + 1)


def _growth(where: str, step: Mapping[str, Any]) -> int:
    """How many letters one may become in a step."""
    kind = step.get("type")
    if kind == "Replace":
        content = foreign.text(f"{where}'s replacement", step.get("content"), _MOST_GROWTH)
        pattern = step.get("pattern") or {}
        literal = pattern.get("String") if isinstance(pattern, dict) else None
        if isinstance(literal, str) and literal:
            return max(1, -(-len(content) // len(literal)))
        return 1 + len(content)  # a regular expression may match between any two letters
    if kind in ("Prepend", "Strip"):
        foreign.text(f"{where}'s prefix", step.get("prepend") or "", _LONGEST_AFFIX)
    if kind == "Precompiled" and isinstance(step.get("precompiled_charsmap"), str):
        # Sentencepiece's: the length of a trie, the trie, and what its entries are replaced by.
        packed = base64.b64decode(step["precompiled_charsmap"])
        replaced = packed[4 + int.from_bytes(packed[:4], "little") :].split(b"\0")
        longest = max(map(len, replaced))
        return foreign.integer(f"{where}'s longest replacement", max(longest, 1), 1, 256)
    return 1


def _converted(folder: Path) -> Tokenizer:
    """Lets transformers convert an older tokenizer (vocab.txt, sentencepiece)."""
    from transformers import AutoTokenizer  # slow to import, seldom needed

    for path in folder.iterdir():
        if path.suffix in (".json", ".model", ".txt") and path.is_file():
            foreign.read_bytes(path, LARGEST_FILE)
    try:
        converted: Any = AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
        return converted.backend_tokenizer
    except (MmjaxError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        raise MmjaxError(
            f"{folder} has no tokenizer.json, and transformers could not make one from the other "
            f"files ({foreign.reason(error)})"
        ) from error
