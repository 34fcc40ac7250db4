"""Texts to padded token ids."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int
from tokenizers import Encoding, Tokenizer

from mmjax.encoders.files import read_optional_json
from mmjax.errors import MmjaxError
from mmjax.foreign import parse_json, shown

# Lengths that batches are padded to. Fine where short texts live, so that little work is wasted;
# each length that occurs costs one compilation.
BUCKETS = (4, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)


@dataclasses.dataclass(frozen=True)
class TokenBatch:
    """Padded token ids."""

    input_ids: Int[np.ndarray, "n l"]
    attention_mask: Int[np.ndarray, "n l"]  # 1 at real tokens, special ones included
    num_truncated: int  # texts that were longer than allowed and were cut


@dataclasses.dataclass(frozen=True)
class TokenLists:
    """Token ids of each text, special tokens included, not padded."""

    ids: list[list[int]]
    num_truncated: int


@dataclasses.dataclass(frozen=True)
class TextPreprocess:
    """A tokenizer with the constants that its encoder was trained with."""

    tokenizer: Tokenizer = dataclasses.field(repr=False)
    tokenizer_sha256: str
    max_length: int
    pad_token_id: int
    lower_case: bool = False
    prompts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    default_prompt: str | None = None
    position_limit: int | None = None  # the most tokens that the model has positions for

    def __post_init__(self) -> None:
        """Refuses a length at which the model would read positions that it has not got.

        Raises:
          MmjaxError: `max_length` is out of range.
        """
        most = self.max_length if self.position_limit is None else self.position_limit
        if not 1 <= self.max_length <= most:
            raise MmjaxError(
                f"max_length {self.max_length} is out of range: this encoder has positions for "
                f"1 to {most} tokens"
            )

    @functools.cached_property
    def fingerprint(self) -> str:
        """Sha256 over the tokenizer's file and all constants."""
        fields = {field.name for field in dataclasses.fields(self)}
        fields -= {"tokenizer", "prompts", "position_limit"}
        constants: dict[str, Any] = {name: getattr(self, name) for name in fields}
        constants["prompts"] = dict(self.prompts)
        return hashlib.sha256(json.dumps(constants, sort_keys=True).encode()).hexdigest()

    def tokenize(
        self, texts: Sequence[Any], max_length: int | None = None, prompt: str | None = None
    ) -> TokenLists:
        """Cuts texts into token ids, without padding.

        Args:
          texts: the texts (str); an empty one becomes special tokens only.
          max_length: most tokens a text, special ones included; None takes the encoder's own.
          prompt: name of the prompt put in front; None takes the encoder's default, "" none.

        Returns:
          The ids, and how many texts were cut.

        Raises:
          MmjaxError: something that is not a str, an unknown prompt, or a max_length that is out of
            range.
        """
        limit = self.max_length if max_length is None else max_length
        special = self.tokenizer.num_special_tokens_to_add(False)
        if not special < limit <= self.max_length:
            raise MmjaxError(
                f"max_length {limit} is out of range; this encoder takes "
                f"{special + 1} to {self.max_length} tokens"
            )
        prefix = self._prefix(prompt)
        for i, text in enumerate(texts):
            if not isinstance(text, str):
                raise MmjaxError(f"text {i} is a {type(text).__name__}, not a str")
        prepared = [prefix + (t.lower() if self.lower_case else t) for t in texts]
        encodings = self.tokenizer.encode_batch_fast(prepared)
        ids = [encoding.ids for encoding in encodings]
        long = [i for i, tokens in enumerate(ids) if len(tokens) > limit]
        for i in long:
            # Cut first and then frame, or the closing special token would be lost.
            encoding: Encoding = self.tokenizer.encode(prepared[i], add_special_tokens=False)
            encoding.truncate(limit - special)
            ids[i] = self.tokenizer.post_process(encoding, None, True).ids
        return TokenLists(ids, len(long))

    def __call__(
        self,
        texts: Sequence[Any],
        max_length: int | None = None,
        pad_to: Sequence[int] = BUCKETS,
        prompt: str | None = None,
    ) -> TokenBatch:
        """Tokenizes and pads.

        Args:
          texts: n texts (str).
          max_length: most tokens a text, special ones included; None takes the encoder's own.
          pad_to: lengths to choose from; the batch is padded to the least that holds its longest
            text (to that text's own length where none does).
          prompt: name of the prompt put in front; None takes the encoder's default, "" none.

        Returns:
          A batch of int32 [n, l] ids and mask.

        Raises:
          MmjaxError: as `tokenize`.
        """
        tokens = self.tokenize(texts, max_length, prompt)
        longest = max((len(ids) for ids in tokens.ids), default=1)
        ids, mask = pad_ids(tokens.ids, bucket(longest, pad_to), self.pad_token_id)
        return TokenBatch(ids, mask, tokens.num_truncated)

    def _prefix(self, prompt: str | None) -> str:
        name = self.default_prompt if prompt is None else prompt
        if not name:
            return ""
        if name not in self.prompts:
            known = ", ".join(map(repr, self.prompts)) or "none"
            raise MmjaxError(f"unknown prompt {name!r}; this encoder's prompts: {known}")
        return self.prompts[name]


def bucket(length: int, lengths: Sequence[int] = BUCKETS) -> int:
    """The least of `lengths` that is not below `length`, or `length` itself."""
    return min((size for size in lengths if size >= length), default=max(length, 1))


def pad_ids(
    ids: Sequence[Sequence[int]], length: int, pad_token_id: int
) -> tuple[Int[np.ndarray, "n l"], Int[np.ndarray, "n l"]]:
    """Pads on the right.

    Args:
      ids: n lists of token ids, none longer than `length`.
      length: l.
      pad_token_id: what fills the rest.

    Returns:
      (input_ids, attention_mask): both int32 [n, l].
    """
    input_ids = np.full((len(ids), length), pad_token_id, np.int32)
    mask = np.zeros((len(ids), length), np.int32)
    for row, tokens in enumerate(ids):
        input_ids[row, : len(tokens)] = tokens
        mask[row, : len(tokens)] = 1
    return input_ids, mask


def load_text_preprocess(
    folder: Path, position_limit: int, vocab_size: int, pad_token_id: int
) -> TextPreprocess:
    """Reads the tokenizer of a Hugging Face or sentence-transformers folder.

    Args:
      folder: holds `tokenizer.json`, or the files of an older tokenizer that transformers converts.
      position_limit: the most tokens that the model's position table takes.
      vocab_size: rows of the model's table of words.
      pad_token_id: the model's.

    Returns:
      The preprocessing, limited to what sentence-transformers' and the tokenizer's files allow.

    Raises:
      MmjaxError: no tokenizer, a damaged one, or one with more tokens than the model.
    """
    path = folder / "tokenizer.json"
    if path.is_file():
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the tokenizers package raises bare Exception
            raise MmjaxError(f"{path} is not a readable tokenizer ({error})") from error
        content = path.read_bytes()
        _check_added(path, parse_json(path, content), tokenizer)
        sha256 = hashlib.sha256(content).hexdigest()
    else:
        tokenizer = _convert_tokenizer(folder)
        sha256 = hashlib.sha256(tokenizer.to_str().encode()).hexdigest()
    # Some files have padding to a fixed 128 switched on, which costs ten times the work.
    tokenizer.no_padding()
    tokenizer.no_truncation()
    check_ids(folder, tokenizer, vocab_size, pad_token_id)
    sentence = read_optional_json(folder / "sentence_bert_config.json")
    prompts = read_optional_json(folder / "config_sentence_transformers.json")
    own = read_optional_json(folder / "tokenizer_config.json").get("model_max_length")
    limits = [position_limit, sentence.get("max_seq_length") or own or position_limit]
    return TextPreprocess(
        tokenizer=tokenizer,
        tokenizer_sha256=sha256,
        max_length=int(min(limits)),
        pad_token_id=pad_token_id,
        lower_case=bool(sentence.get("do_lower_case", False)),
        prompts=prompts.get("prompts") or {},
        default_prompt=prompts.get("default_prompt_name"),
        position_limit=position_limit,
    )


def check_ids(where: Path | str, tokenizer: Tokenizer, vocab_size: int, pad_token_id: int) -> None:
    """Refuses a tokenizer that gives ids beyond the model's table of words.

    Looked up there, such an id is no error but NaN, or another word.

    Args:
      where: the file or folder, for the message.
      tokenizer: without padding and truncation.
      vocab_size: rows of the table.
      pad_token_id: what fills a batch.

    Raises:
      MmjaxError: names the token.
    """
    if tokenizer.get_vocab_size() > vocab_size:
        raise MmjaxError(
            f"{where}: the tokenizer has {tokenizer.get_vocab_size()} tokens but the model only "
            f"{vocab_size}; they do not belong together"
        )
    vocabulary, framed = tokenizer.get_vocab(), tokenizer.encode("")
    # A file says the ids of what stands around a text apart from its vocabulary.
    for ids in (vocabulary, dict(zip(framed.tokens, framed.ids, strict=True))):
        if max(ids.values(), default=0) >= vocab_size:
            token = max(ids, key=lambda token: ids[token])
            raise MmjaxError(
                f"{where}: the tokenizer's token {shown(token)} has the id {ids[token]}, but the "
                f"model has {vocab_size} words; they do not belong together"
            )
    if not 0 <= pad_token_id < vocab_size:
        raise MmjaxError(
            f"{where}: pad_token_id is {pad_token_id}, but the model has {vocab_size} words"
        )


def _check_added(path: Path, content: Any, tokenizer: Tokenizer) -> None:
    """Refuses added tokens whose ids do not follow the vocabulary: they would get other ids.

    Raises:
      MmjaxError: names the token.
    """
    for token in content.get("added_tokens") or ():
        found = tokenizer.token_to_id(token["content"])
        if found != token["id"]:
            raise MmjaxError(
                f"{path}: the added token {shown(token['content'])} has the id "
                f"{shown(token['id'])}, but its place in the vocabulary is {found}; number added "
                "tokens from the vocabulary's end on"
            )


def _convert_tokenizer(folder: Path) -> Tokenizer:
    """Lets transformers convert an older tokenizer (vocab.txt, sentencepiece)."""
    from transformers import AutoTokenizer  # slow to import, seldom needed

    try:
        converted: Any = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        return converted.backend_tokenizer
    except (OSError, ValueError, ImportError, AttributeError, KeyError, TypeError) as error:
        raise MmjaxError(
            f"{folder} has no tokenizer.json, and transformers could not make one from the other "
            f"files ({error})"
        ) from error
