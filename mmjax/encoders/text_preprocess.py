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

from mmjax.checks import foreign, ranges
from mmjax.encoders import tokenizer_files
from mmjax.encoders.padding import BUCKETS, bucket, pad_ids
from mmjax.errors import MmjaxError
from mmjax.files import read_optional_json


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
        with tokenizer_files.guarded("the texts"):
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
            names = ", ".join(map(repr, self.prompts)) or "none"
            raise MmjaxError(f"unknown prompt {name!r}; this encoder's prompts: {names}")
        return self.prompts[name]


def _texts(where: str, value: object) -> None:
    """An object of texts by name."""
    ranges.keyed({})(where, value)
    assert isinstance(value, Mapping)
    for name, prompt in value.items():
        foreign.text(f"{where}.{foreign.shown(name)}", prompt, _LONGEST_PROMPT)


_LONGEST_PROMPT = 1 << 16  # letters
# Of sentence-transformers' files, and of transformers', whose limit may be 10^30.
_SENTENCE = {
    "max_seq_length": ranges.optional(ranges.whole(1, foreign.MOST_TOKENS)),
    "do_lower_case": ranges.optional(ranges.flag),
}
_PROMPTS = {
    "prompts": ranges.optional(_texts),
    "default_prompt_name": ranges.optional(ranges.text()),
}
_OWN = {"model_max_length": ranges.optional(ranges.real(1, 1e31))}


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
    tokenizer, sha256 = tokenizer_files.load_tokenizer(folder, vocab_size)
    foreign.integer(f"{folder}: pad_token_id", pad_token_id, 0, vocab_size - 1)
    sentence = read_optional_json(folder / "sentence_bert_config.json")
    prompts = read_optional_json(folder / "config_sentence_transformers.json")
    own = read_optional_json(folder / "tokenizer_config.json")
    for content, name, table in (
        (sentence, "sentence_bert_config.json", _SENTENCE),
        (prompts, "config_sentence_transformers.json", _PROMPTS),
        (own, "tokenizer_config.json", _OWN),
    ):
        ranges.check_ranges(content, str(folder / name), table)
    own = own.get("model_max_length")
    limits = [position_limit, sentence.get("max_seq_length") or own or position_limit]
    named = prompts.get("prompts") or {}
    default = prompts.get("default_prompt_name")
    if default is not None and default not in named:
        raise MmjaxError(
            f"{folder / 'config_sentence_transformers.json'}: default_prompt_name "
            f"{default!r} is none of its prompts"
        )
    return TextPreprocess(
        tokenizer=tokenizer,
        tokenizer_sha256=sha256,
        max_length=int(min(limits)),
        pad_token_id=pad_token_id,
        lower_case=bool(sentence.get("do_lower_case", False)),
        prompts=named,
        default_prompt=default,
        position_limit=position_limit,
    )
