"""The feature cache: computed once, equal ever after, whole whatever interrupts it."""

import errno
import os

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from mmjax.data import feature_cache
from mmjax.data.feature_cache import Request
from mmjax.encoders import Encoder, load_encoder
from mmjax.errors import MmjaxError

TEXTS = [" ".join(f"w{4 + (i + j) % 40}" for j in range(1 + i % 5)) for i in range(10)]


@pytest.fixture
def encoder(folder):
    return load_encoder(folder("bert_tiny"))


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(feature_cache, "SHARD_ITEMS", 4)


def request(encoder, output="pooled", texts=TEXTS):
    return Request("test", (encoder.outputs_fingerprint,), texts, texts, output)


def never():
    pytest.fail("a hit asks for the encoder")


@pytest.mark.parametrize("output", ["pooled", "tokens"])
def test_a_hit_is_bit_equal_and_needs_no_encoder(output, encoder, tmp_path):
    first = feature_cache.load_features(tmp_path, request(encoder, output), lambda: encoder)
    again = feature_cache.load_features(tmp_path, request(encoder, output), never)
    assert len(first) == len(again) == 10
    assert_array_equal(first.values, again.values)
    assert_array_equal(first.offsets, again.offsets)
    for i, row in enumerate(encoder.outputs(TEXTS, output)):
        kept = again.gather(np.array([i]))["features"][0]
        assert_allclose(kept[: len(row)] if output == "tokens" else kept, row, atol=1e-6)


def test_other_items_outputs_or_encoders_are_other_features(encoder):
    digests = {
        request(encoder).digest,
        request(encoder, "tokens").digest,
        request(encoder, texts=TEXTS[:-1]).digest,
        request(encoder, texts=TEXTS[::-1]).digest,
        Request("test", ("other",), TEXTS, TEXTS, "pooled").digest,
        Request("test", (encoder.outputs_fingerprint,), TEXTS, TEXTS, "pooled", "float16").digest,
    }
    assert len(digests) == 6


def test_item_keys_cannot_run_into_each_other():
    def digest(*keys):
        return Request("test", ("key",), keys, keys, "pooled").digest

    assert digest("ab", "c") != digest("a", "bc")


def shards(folder):
    return sorted(folder.glob("*/*.array_record"))


@pytest.mark.parametrize("kind", ["missing", "torn", "empty", "short"])
def test_only_what_is_missing_or_torn_is_computed_again(kind, encoder, tmp_path, monkeypatch):
    whole = feature_cache.load_features(tmp_path, request(encoder), lambda: encoder)
    victim = shards(tmp_path)[1]
    others = {p: p.stat().st_mtime_ns for p in shards(tmp_path) if p != victim}
    if kind == "missing":
        victim.unlink()
    elif kind == "torn":
        victim.write_bytes(victim.read_bytes()[:-70_000])
    elif kind == "empty":
        victim.write_bytes(b"")
    else:
        victim.write_bytes(shards(tmp_path)[2].read_bytes())  # 2 items where 4 belong
    asked = []
    outputs = type(encoder).outputs

    def watch(self, items, *args):
        asked.extend(items[i] for i in range(len(items)))
        return outputs(self, items, *args)

    monkeypatch.setattr(type(encoder), "outputs", watch)
    again = feature_cache.load_features(tmp_path, request(encoder), lambda: encoder)
    assert asked == TEXTS[4:8]
    assert_array_equal(again.values, whole.values)
    assert {p: p.stat().st_mtime_ns for p in others} == others


def test_an_interrupted_run_goes_on_after_the_last_whole_shard(encoder, tmp_path, monkeypatch):
    outputs = type(encoder).outputs
    asked = []

    def dies(self, items, *args):
        for row in outputs(self, items, *args):
            given.append(row)
            if len(given) == 7:
                raise KeyboardInterrupt
            yield row

    given = []
    whole = feature_cache.load_features(tmp_path / "whole", request(encoder), lambda: encoder)

    def watch(self, items, *args):
        asked.extend(items[i] for i in range(len(items)))
        return outputs(self, items, *args)

    monkeypatch.setattr(type(encoder), "outputs", dies)
    with pytest.raises(KeyboardInterrupt):
        feature_cache.load_features(tmp_path, request(encoder), lambda: encoder)
    assert len(list(tmp_path.glob("[!w]*/*.array_record"))) == 1
    monkeypatch.setattr(type(encoder), "outputs", watch)
    table = feature_cache.load_features(tmp_path, request(encoder), lambda: encoder)
    assert asked == TEXTS[4:]
    assert_array_equal(table.values, whole.values)


def test_items_are_read_when_their_turn_comes(encoder, tmp_path, monkeypatch):
    class Lazy:
        def __len__(self):
            return len(TEXTS)

        def __getitem__(self, i, /):
            read.append(i)
            return TEXTS[i]

    def outputs(self, items, want):
        before = len(read)
        for i in range(len(items)):
            assert len(read) == before + i
            items[i]
            yield np.zeros(2, np.float32)

    read: list[int] = []
    monkeypatch.setattr(type(encoder), "outputs", outputs)
    lazy = Request("test", ("key",), Lazy(), TEXTS, "pooled")
    feature_cache.load_features(tmp_path, lazy, lambda: encoder)
    assert read == list(range(10))


def test_a_full_disk_is_one_sentence_and_leaves_whole_shards_only(encoder, tmp_path, monkeypatch):
    replace, calls = os.replace, []

    def full(source, target):
        calls.append(target)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(MmjaxError, match=r"cannot write features .* No space left .* MMJAX_CACHE"):
        feature_cache.load_features(tmp_path, request(encoder), lambda: encoder)
    monkeypatch.undo()
    assert len(shards(tmp_path)) == 1
    assert list(tmp_path.glob("*/*.tmp")) == []


@pytest.fixture
def saying(monkeypatch):
    """Returns `saying(rows)`: encoders say these rows from now on."""

    def change(rows):
        said = lambda self, items, want: (rows[i] for i in items.chosen)  # noqa: E731
        monkeypatch.setattr(Encoder, "outputs", said)

    return change


ROWS = [np.full(3, i, np.float32) for i in range(10)]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_named_and_never_kept(bad, encoder, saying, tmp_path):
    """Ids or positions beyond a model's tables give NaN, and no error."""
    saying([*ROWS[:5], np.array([0, bad, 0], np.float32), *ROWS[6:]])
    with pytest.raises(MmjaxError, match=r"test features are not finite in 1 of 4 rows.*5 \('w9"):
        feature_cache.load_features(tmp_path, request(encoder), lambda: encoder)
    assert len(shards(tmp_path)) == 1  # the rows before it are
    saying(ROWS)
    table = feature_cache.load_features(tmp_path, request(encoder), lambda: encoder)
    assert_array_equal(table.values, np.stack(ROWS))


def test_what_an_earlier_version_kept_is_computed_again(encoder, saying, tmp_path, monkeypatch):
    saying([row * np.nan for row in ROWS])
    with monkeypatch.context() as patched:
        patched.setattr(feature_cache, "_check_finite", lambda *_: None)
        feature_cache.load_features(tmp_path, request(encoder), lambda: encoder)
    saying(ROWS)
    table = feature_cache.load_features(tmp_path, request(encoder), lambda: encoder)
    assert_array_equal(table.values, np.stack(ROWS))
