"""Tokenizers: ids that the model lacks, texts that explode, tokens without end, panics."""

import base64
import contextlib
import json
import shutil
import struct
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from mmjax.encoders import load_encoder, tokenizer_files
from mmjax.errors import MmjaxError
from tests.weights.test_meta_llama import field, sentencepiece_bytes, write_meta

MILLION = 10**6


@pytest.fixture(scope="module")
def good(tmp_path_factory, write_folder):
    folder = write_folder(tmp_path_factory.mktemp("tokenizers") / "bert_tiny", "bert_tiny")
    load_encoder(folder)
    return folder


@pytest.fixture
def bert(good, tmp_path):
    shutil.copytree(good, tmp_path / "bert_tiny")
    return tmp_path / "bert_tiny"


def replace(content: str, pattern: dict[str, str] | None = None) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern or {"String": "a"}, "content": content}


def sequence(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "normalizers": list(steps)}


def charsmap(content: bytes) -> dict[str, Any]:
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(content).decode()}


def added(**changes: Any) -> list[dict[str, Any]]:
    token = {"id": 0, "content": "[PAD]", "single_word": False, "lstrip": False, "rstrip": False}
    return [{**token, "normalized": False, "special": True, **changes}]


def framed(ids: list[int]) -> dict[str, Any]:
    """A frame of one special token of such ids."""
    special = {"[CLS]": {"id": "[CLS]", "ids": ids, "tokens": ["[CLS]"] * len(ids)}}
    step = {"SpecialToken": {"id": "[CLS]", "type_id": 0}}
    single = [step, {"Sequence": {"id": "A", "type_id": 0}}]
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": single,
        "special_tokens": special,
    }


WORDPIECE = {
    "type": "WordPiece",
    "unk_token": "[UNK]",
    "continuing_subword_prefix": "##",
    "max_input_chars_per_word": 100,
    "vocab": {"[UNK]": 0, "a": 1},
}
BPE = {
    "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
    "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
    "vocab": {"a": 0, "b": 1}, "merges": [],
}  # fmt: skip
WORDS = {"type": "WordLevel", "vocab": {"[UNK]": 0, "a": 1}, "unk_token": "[UNK]"}
FILES: dict[str, dict[str, Any]] = {
    "an added token of id 10^6": {"added_tokens": added(id=MILLION)},
    "an added token of id -1": {"added_tokens": added(id=-1)},
    "an added token of id 0.5": {"added_tokens": added(id=0.5)},
    "an added token that is a number": {"added_tokens": added(content=3)},
    "an added token of a million letters": {"added_tokens": added(id=49, content="a" * MILLION)},
    "added tokens that are a text": {"added_tokens": "[PAD]"},
    "a word of id 10^6": {"model": WORDS | {"vocab": {"[UNK]": 0, "a": MILLION}}},
    "a word of id 2^40": {"model": WORDS | {"vocab": {"[UNK]": 0, "a": 1 << 40}}},
    "a word of a million letters": {"model": WORDS | {"vocab": {"[UNK]": 0, "a" * MILLION: 1}}},
    "a frame of id 10^6": {"post_processor": framed([MILLION])},
    "a frame of 100,000 ids": {"post_processor": framed([1] * 100_000)},
    "replaces a letter by a million": {"normalizer": replace("a" * MILLION)},
    "replaces what is nothing by a million": {"normalizer": replace("a" * MILLION, {"Regex": ""})},
    "three replacements by a hundred": {"normalizer": sequence(*[replace("a" * 100)] * 3)},
    "twenty doublings": {"normalizer": sequence(*[replace("aa")] * 20)},
    "doublings inside of each other": {
        "normalizer": sequence(*[sequence(*[replace("aa")] * 5)] * 5)
    },
    "a replacement in the decoder": {"decoder": replace("a" * MILLION)},
    "a prefix of a million": {"normalizer": {"type": "Prepend", "prepend": "a" * MILLION}},
    "a map of garbage": {"normalizer": charsmap(bytes(range(256)) * 4)},
    "a map of nothing": {"normalizer": charsmap(b"")},
    "a map that is cut": {"normalizer": charsmap(struct.pack("<I", 1 << 20) + bytes(64))},
    "a map that replaces by a million": {
        "normalizer": charsmap(struct.pack("<I", 4) + bytes(4) + b"a" * MILLION + b"\0")
    },
    "a map that is no base64": {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "é"}},
    "random tokens": {"model": BPE | {"dropout": 0.5}},
    "words of 10^9 letters": {"model": WORDPIECE | {"max_input_chars_per_word": 10**9}},
    "words of 0 letters": {"model": WORDPIECE | {"max_input_chars_per_word": 0}},
    "a prefix of pieces of a million": {
        "model": WORDPIECE | {"continuing_subword_prefix": "#" * MILLION}
    },
    "merges out of the vocabulary": {"model": BPE | {"merges": [["x", "y"]]}},
    "merges that are numbers": {"model": BPE | {"merges": [3]}},
    "no model": {"model": None},
    "an unknown model": {"model": {"type": "Magic"}},
    "an expression that is none": {"normalizer": replace("b", {"Regex": "(("})},
}


@pytest.mark.parametrize("case", FILES)
def test_tokenizer_json(case, bert, refused):
    path = bert / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | FILES[case]))
    refused(lambda: load_encoder(bert), "bert_tiny")


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"3", b"\xff\xfe", b"[" * 100_000, b'{"model": ' + b"9" * 5_000 + b"}"],
    ids=["empty", "cut", "a list", "a number", "no UTF-8", "nested", "5,000 digits"],
)
def test_no_tokenizer_json(content, bert, refused):
    (bert / "tokenizer.json").write_bytes(content)
    refused(lambda: load_encoder(bert), "tokenizer.json")


def test_a_file_that_is_too_large(bert, refused):
    with (bert / "tokenizer.json").open("wb") as file:
        file.truncate(1 << 33)
    refused(lambda: load_encoder(bert), "tokenizer.json", "bytes")


@pytest.mark.parametrize(
    "vocabulary",
    [b"[UNK]\n\0\xff\xfe\n", b"", b"\n" * 10, "\n".join(f"w{i}" for i in range(90)).encode()],
    ids=["NUL and no UTF-8", "empty", "no word", "more words than the model"],
)
def test_an_older_vocabulary(vocabulary, bert, refused):
    (bert / "tokenizer.json").unlink()
    (bert / "vocab.txt").write_bytes(vocabulary)
    (bert / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    refused(lambda: load_encoder(bert), "bert_tiny", seconds=20)


def test_code_beside_an_older_vocabulary_is_not_run(bert, tmp_path, refused):
    (bert / "tokenizer.json").unlink()
    (bert / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass")
    own = {"auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}, "tokenizer_class": "Evil"}
    (bert / "tokenizer_config.json").write_text(json.dumps(own))
    refused(lambda: load_encoder(bert), "bert_tiny", ran=tmp_path / "ran", seconds=20)


def of_patterns(pattern: str) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    return tokenizer


def test_a_pattern_that_looks_for_ever_ends(bert):
    """Its library gives up by a panic, or finds a way."""
    of_patterns(r"(a+)+$").save(str(bert / "tokenizer.json"))
    encoder = load_encoder(bert)
    told = pytest.raises(MmjaxError, match="the tokenizer fails on a text")
    with contextlib.suppress(pytest.fail.Exception), told:
        encoder.preprocess(["a" * 40 + "b"])


def test_a_failure_while_a_text_is_read_is_told(bert, refused):
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="[none]"))
    tokenizer.save(str(bert / "tokenizer.json"))
    encoder = load_encoder(bert)  # which knows a letter
    refused(lambda: encoder.preprocess(["c"]), "the tokenizer fails on a text")


@pytest.mark.parametrize(
    "normalizer",
    [
        sequence(replace('"', {"String": "``"}), replace('"', {"String": "''"})),
        sequence(*[replace("▁", {"String": " "})] * 30),
        sequence(replace(" ", {"Regex": " {2,}"}), {"type": "Prepend", "prepend": "▁"}),
        {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
         "strip_accents": None, "lowercase": True},
    ],
    ids=["quotes", "thirty of one letter", "spaces", "BERT's"],
)  # fmt: skip
def test_what_published_tokenizers_do_is_right(normalizer, bert):
    path = bert / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"normalizer": normalizer}))
    assert load_encoder(bert).preprocess(["w5"]).input_ids[0, 0] == 1


# --- sentencepiece, tiktoken --------------------------------------------------------------------

LONG = base64.b64encode(b"a" * 1_500_000)
LETTERS = [base64.b64encode(bytes([i])) + b" %d" % i for i in range(42)]
FILES_OF_META: dict[str, bytes] = {
    "tiktoken, one token of 1.5 million letters": b"\n".join([*LETTERS[:41], LONG + b" 41"]),
    "tiktoken, ranks with a gap": b"\n".join([*LETTERS[:41], b"YWI= 60"]),
    "tiktoken, a rank of 5,000 digits": b"\n".join([*LETTERS[:41], b"YWI= " + b"9" * 5_000]),
    "tiktoken, a rank that is a word": b"\n".join([*LETTERS[:41], b"YWI= x"]),
    "tiktoken, two million lines": b"\n" * (2 * MILLION),
    "tiktoken, no base64": b"\xff\xff 0\n",
    "sentencepiece, a piece that is a number": field(1, field(1, 3) + field(2, 0.0)),
    "sentencepiece, a piece of 1.5 million letters": field(1, field(1, b"a" * 1_500_000)),
    "sentencepiece, a score that is no number": sentencepiece_bytes() + field(
        1, field(1, b"zz") + field(2, float("nan"))
    ),
    "sentencepiece, a piece that is no UTF-8": field(1, field(1, b"\xff")) + sentencepiece_bytes(),
    "sentencepiece, an unknown of id 10^6": sentencepiece_bytes() + field(
        2, field(3, 2) + field(40, MILLION)
    ),
    "sentencepiece, four million empty fields": b"\x0a\x00" * (4 * MILLION),
    "sentencepiece, a field of 2^60 bytes": b"\x0a" + b"\xff" * 8 + b"\x0f",
}  # fmt: skip


@pytest.fixture(scope="module")
def meta(tmp_path_factory):
    return write_meta(tmp_path_factory.mktemp("meta") / "meta", 1)


@pytest.mark.parametrize("case", FILES_OF_META)
def test_tokenizers_of_meta(case, meta, tmp_path, refused):
    shutil.copytree(meta, tmp_path / "meta")
    (tmp_path / "meta" / "tokenizer.model").write_bytes(FILES_OF_META[case])
    refused(lambda: load_encoder(tmp_path / "meta"), "tokenizer.model")


def test_meta_with_its_own_tokenizer_is_right(meta, tmp_path):
    shutil.copytree(meta, tmp_path / "meta")
    (tmp_path / "meta" / "tokenizer.model").write_bytes(sentencepiece_bytes())
    tokenizer = load_encoder(tmp_path / "meta").preprocess.tokenizer
    tokenizer_files.check_tokenizer(tokenizer, "meta", 52)
    with pytest.raises(MmjaxError, match="52 tokens but the model only 40"):
        tokenizer_files.check_tokenizer(tokenizer, "meta", 40)
