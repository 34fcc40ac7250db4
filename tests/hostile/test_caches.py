"""What lies in caches, and what it is made of, damaged: a sentence, or it is made again."""

import json
import zipfile

import numpy as np
import pytest

from mmjax.assets import wheels
from mmjax.assets.asset import Asset, Member
from mmjax.data import feature_cache, sources
from mmjax.data.builders.cedict_entries import read_entries
from mmjax.data.builders.emoji_table import read_table
from mmjax.evals.perplexity import read_text
from tests.hostile.files import DEEP, LONG, write


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"\xff\xfe", "not UTF-8"), ("no entry\n", "line 1: expected"), ("", "has no entry")],
)
def test_a_dictionary_damaged(content, message, tmp_path, refused):
    files = [write(tmp_path / name, "") for name in ("hsk2.txt", "hsk3.txt")]
    path = write(tmp_path / "cedict.txt", content)
    refused(lambda: read_entries(path, *files), "cedict.txt", message)


@pytest.mark.parametrize("content", [b"\xff", "", "a\tb\n", "\0"])
def test_a_table_of_emoji_damaged(content, tmp_path, refused):
    refused(lambda: read_table(write(tmp_path / "table.tsv", content)), "table.tsv")


@pytest.mark.parametrize("name", ["latin.txt", "gone.txt", LONG, "a\0", "."])
def test_plain_text_that_is_none(name, tmp_path, refused):
    write(tmp_path / "latin.txt", "é".encode("latin-1"))
    refused(lambda: read_text(str(tmp_path / name)), "config.questions.text", "cannot be read")


@pytest.mark.parametrize(
    "card",
    [
        "",
        "[]",
        "null",
        DEEP,
        '{"fingerprint": 5, "length": 1}',
        '{"fingerprint": "x", "length": "1"}',
        '{"fingerprint": "x", "length": -1}',
        '{"fingerprint": "x", "length": true}',
        b"\xff",
    ],
)
def test_a_data_set_with_a_damaged_card_is_not_there(card, tmp_path):
    write(tmp_path / "source.json", card)
    assert sources._find("emoji", tmp_path) is None


@pytest.mark.parametrize("content", [b"", b"x" * 100, b"\0" * 70_000])
def test_a_data_set_with_damaged_records(content, tmp_path, refused):
    write(tmp_path / "source.json", '{"fingerprint": "x", "length": 3}')
    write(tmp_path / "data" / "dataset_info.json", content)
    write(tmp_path / "data" / "features.json", content)
    found = sources._find("emoji", tmp_path)
    assert found is not None
    refused(lambda: found[0], str(tmp_path), "it is made again on the next run", seconds=60)


def whole(path, rows, **changes):
    """Writes a shard whose header says something else."""
    header = {"shapes": [row.shape for row in rows], "dtype": "float32"} | changes
    writer = feature_cache._array_record().ArrayRecordWriter(str(path), "group_size:1,uncompressed")
    writer.write(json.dumps(header).encode())
    for one in rows:
        writer.write(one.tobytes())
    writer.close()


VECTORS = [np.arange(4, dtype=np.float32)] * 3
SHARDS = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "garbage": lambda path: path.write_bytes(bytes(range(256)) * 300),
    "zeros": lambda path: path.write_bytes(b"\0" * path.stat().st_size),
    "no header": lambda path: whole(path, VECTORS, shapes=None),
    "a header of texts": lambda path: whole(path, VECTORS, shapes=["a", "b", "c"]),
    "an absurd shape": lambda path: whole(path, VECTORS, shapes=[[10**12]] * 3),
    "a negative shape": lambda path: whole(path, VECTORS, shapes=[[-1, -1]] * 3),
    "another dtype": lambda path: whole(path, VECTORS, dtype="float16"),
    "objects": lambda path: whole(path, VECTORS, dtype="object"),
    "a row too few": lambda path: whole(path, VECTORS[:2]),
    "widths that differ": lambda path: whole(path, [*VECTORS[:2], VECTORS[0][:3]]),
    "no number": lambda path: whole(path, [*VECTORS[:2], VECTORS[0] * np.nan]),
}


@pytest.mark.parametrize("name", SHARDS)
def test_a_damaged_shard_of_features_is_computed_again(name, tmp_path):
    path = tmp_path / "a.array_record"
    whole(path, VECTORS)
    assert len(feature_cache._read_shard(path, 3, "float32") or []) == 3
    SHARDS[name](path)
    assert feature_cache._read_shard(path, 3, "float32") is None


ASSET = Asset(
    name="fake",
    kind="data",
    package="fake-pkg",
    version="1.2",
    wheel_sha256=None,
    members=(Member("fake/a.txt", "a.txt", 5000, "0" * 64),),
    converter="copy",
    conversion=1,
    licence="none",
    attribution="nobody",
)


def archive(path, name="fake/a.txt", data=b"hello" * 1000, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as found:
        found.writestr(name, data)
    return path


def damaged(path, at, content):
    data = bytearray(path.read_bytes())
    data[at : at + len(content)] = content
    path.write_bytes(data)


def headers(path, at, content):
    """Overwrites a field of both of the member's headers."""
    data = path.read_bytes()
    damaged(path, at, content)
    damaged(path, data.index(b"PK\x01\x02") + at + 2, content)


WHEELS = {
    "a damaged LZMA stream": (
        lambda path: damaged(archive(path, method=zipfile.ZIP_LZMA), 60, b"\xff" * 20),
        "method 14",
    ),
    "LZMA": (lambda path: archive(path, method=zipfile.ZIP_LZMA), "compressed as no wheel is"),
    "bzip2": (lambda path: archive(path, method=zipfile.ZIP_BZIP2), "method 12"),
    "an unknown method": (lambda path: headers(archive(path), 8, b"\x63\0"), "method 99"),
    "a damaged stream": (lambda path: damaged(archive(path), 45, b"\xff" * 8), "no whole wheel"),
    "cut short": (lambda path: path.write_bytes(archive(path).read_bytes()[:-30]), "whole wheel"),
    "empty": (lambda path: path.write_bytes(b""), "no whole wheel"),
    "no archive": (lambda path: path.write_bytes(b"PK" + b"\0" * 300), "no whole wheel"),
    "a bomb": (
        lambda path: archive(path, data=b"\0" * 2 * 10**6),
        "has 2000000 bytes, expected 5000",
    ),
    "a bomb that lies": (
        lambda path: headers(
            archive(path, data=b"\0" * 2 * 10**6), 22, (5000).to_bytes(4, "little")
        ),
        "fake/a.txt",
    ),
    "another member": (lambda path: archive(path, "fake/b.txt"), "has no fake/a.txt"),
    "other bytes": (lambda path: archive(path, data=b"hellO" * 1000), "has sha256"),
    "encrypted": (lambda path: headers(archive(path), 6, b"\x01\0"), "(unencrypted)"),
}


@pytest.mark.parametrize("name", WHEELS)
def test_a_damaged_wheel(name, tmp_path, refused):
    path, folder = tmp_path / "fake.whl", tmp_path / "out"
    make, message = WHEELS[name]
    make(path)
    refused(lambda: wheels.extract(ASSET, path, folder), "fake.whl", message)
