"""Images that are no files yet: tar shards and tensorflow-datasets, and what hides in them."""

import io
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mmjax.data.corpora.catalog import load_corpus
from mmjax.data.rows import Columns
from mmjax.errors import DataError
from mmjax.specs.data import PairsSpec
from mmjax.synthesis.pairs import read_pairs
from tests.synthesis.samples import pair, png


def make_tar(path: Path, members: Mapping[str, bytes]) -> str:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return str(path)


def test_shards_give_samples_whose_images_become_files(tmp_path):
    first = {
        "./sub/": b"",
        "./0001.jpg": png(),
        "./0001.txt": b"\xef\xbb\xbfa bus\r\n",
        "./0001.json": b'{"caption": "worse", "url": "u"}',
        "./0001.cls": b"3",
        "./._0002.jpg": b"left by a Mac",
        "sub/0002.PNG": png(),
        "sub/0002.json": b'{"caption": "a cat", "id": "not this"}',
    }
    make_tar(tmp_path / "s-09.tar", {k: v for k, v in first.items() if not k.endswith("/")})
    make_tar(tmp_path / "s-10.tar", {"0003.txt": b"a dog", "0003.webp": png()})
    into = tmp_path / "images"
    found = list(read_pairs(str(tmp_path / "s-{09..10}.tar"), into=into, check_images=True))
    assert found == [
        pair("0001", str(into / "s-09/0001.jpg"), "a bus", url="u"),
        pair("sub/0002", str(into / "s-09/sub/0002.png"), "a cat"),
        pair("0003", str(into / "s-10/0003.webp"), "a dog"),
    ]
    assert all(Path(record.images[0]).read_bytes() == png() for record in found)
    for pattern in ("s-*.tar", "s-{09,10}.tar"):
        assert list(read_pairs(str(tmp_path / pattern), into=into)) == found


def test_a_compressed_shard_is_read_too(tmp_path):
    with tarfile.open(tmp_path / "s.tar.gz", "w:gz") as tar:
        for name, content in {"a.jpg": png(), "a.txt": b"a bus"}.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    assert [r.id for r in read_pairs(str(tmp_path / "s.tar.gz"), into=tmp_path)] == ["a"]


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> Path:
    """A data set that tensorflow-datasets itself wrote."""
    import numpy as np
    import tensorflow_datasets as tfds

    class Toy(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        url_infos = None  # type: ignore[assignment]

        def _info(self) -> tfds.core.DatasetInfo:
            features = tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(encoding_format="png"),
                    "array": tfds.features.Tensor(shape=(4, 4, 3), dtype=np.uint8),
                    "caption": tfds.features.Text(),
                    "captions": tfds.features.Sequence({"text": tfds.features.Text()}),
                    "label": np.int64,
                }
            )
            return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            return {"train": self._generate_examples(), "test": self._generate_examples()}

        def _generate_examples(self) -> Any:
            for i in range(3):
                yield (
                    i,
                    {
                        "image": io.BytesIO(png()),
                        "array": np.full((4, 4, 3), 7, np.uint8),
                        "caption": f"caption {i}",
                        "captions": [{"text": f"first {i}"}, {"text": "second"}],
                        "label": i,
                    },
                )

    builder = Toy(data_dir=tmp_path_factory.mktemp("tfds"), file_format="array_record")
    builder.download_and_prepare()
    return Path(builder.data_dir)


def test_a_tensorflow_data_set_is_read_without_tensorflow(toy, tmp_path):
    found = list(read_pairs(f"tfds:{toy}:test[1:]", into=tmp_path, check_images=True))
    assert [record.turns[1].text for record in found] == ["caption 1", "caption 2"]
    assert [record.meta["label"] for record in found] == [1, 2]
    assert len({record.images for record in found}) == 2
    assert Path(found[0].images[0]).read_bytes() == png()  # its own bytes, not encoded anew
    assert "tensorflow" not in sys.modules


def test_every_task_reads_a_tensorflow_data_set(toy, tmp_path, monkeypatch):
    monkeypatch.setenv("MMJAX_CACHE", str(tmp_path))
    corpus = load_corpus(PairsSpec(source=f"tfds:{toy}:test"), ("en", "en"))
    assert [item.captions["en"] for item in corpus.items] == [(f"caption {i}",) for i in range(3)]
    assert corpus.items[0].picture("photo").size == Image.open(io.BytesIO(png())).size


def test_arrays_become_pictures_and_the_first_of_several_captions_counts(toy, tmp_path):
    columns = Columns("array", "captions", "label")
    found = list(read_pairs(f"tfds:{toy}", columns=columns, into=tmp_path))
    assert [(record.id, record.turns[1].text) for record in found] == [
        ("0", "first 0"),
        ("1", "first 1"),
        ("2", "first 2"),
    ]
    with Image.open(found[0].images[0]) as image:
        assert (image.format, image.getpixel((0, 0))) == ("PNG", (7, 7, 7))


@pytest.mark.parametrize(
    ("members", "sentence"),
    [
        ({}, "has no rows"),
        ({"../a.jpg": png()}, r"member '../a.jpg': '..' cannot be the name of a file"),
        ({"/a.jpg": png()}, "member '/a.jpg': '/' cannot be the name of a file"),
        ({"b\\a.jpg": png()}, "cannot be the name of a file"),
        ({"a.jpg": png()}, r"sample 'a': has .jpg; expected one image .* and .txt or .json"),
        ({"a.txt": b"x"}, r"sample 'a': has .txt; expected one image"),
        ({"a.jpg": png(), "a.png": png(), "a.txt": b"x"}, "sample 'a': has .jpg, .png, .txt"),
        ({"a.jpg": png(), "a.JPG": png(), "a.txt": b"x"}, "sample 'a': has two files .jpg"),
        ({"a.jpg": png(), "a.txt": b"\n"}, "sample 'a': 'caption' is ''"),
        ({"a.jpg": png(), "a.txt": b"\xff"}, "sample 'a': is not UTF-8"),
        ({"a.jpg": png(), "a.json": b"{"}, "sample 'a': expected a JSON object"),
        ({"a.jpg": png(), "a.json": b"[]"}, r"sample 'a': .json holds \[\]"),
        ({"a.jpg": png(), "a.json": b"{}"}, "sample 'a': 'caption' is None"),
        ({"a.jpg": png(), "a.txt": b"x", "b.png": png(), "b.txt": b"y", "./a.jpg": png()}, "'a'"),
    ],
)
def test_a_bad_shard_gets_one_sentence_and_writes_nowhere_else(tmp_path, members, sentence):
    source = make_tar(tmp_path / "s.tar", members)
    with pytest.raises(DataError, match=sentence) as caught:
        list(read_pairs(source, into=tmp_path / "down" / "images"))
    assert "s.tar" in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} <= {"s.tar", "down"}
    assert {path.name for path in tmp_path.glob("down/*")} <= {"images"}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE])
def test_links_and_devices_in_a_shard_are_refused(tmp_path, kind):
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        info = tarfile.TarInfo("a.jpg")
        info.type, info.linkname = kind, "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(DataError, match=r"s.tar, member 'a.jpg': is a link or a device"):
        list(read_pairs(str(tmp_path / "s.tar"), into=tmp_path))


def test_a_shard_that_was_cut_off_or_is_none_is_named(tmp_path):
    source = make_tar(tmp_path / "s.tar", {"a.jpg": png() * 99, "a.txt": b"x"})
    whole = Path(source).read_bytes()
    for content in (whole[:3000], b"no tar" * 400):
        Path(source).write_bytes(content)
        with pytest.raises(DataError, match=r"s.tar is not readable as a tar file"):
            list(read_pairs(source, into=tmp_path))
    with pytest.raises(DataError, match=r"no file is called .*t-\*.tar"):
        list(read_pairs(f"{tmp_path}/t-*.tar", into=tmp_path))
    with pytest.raises(DataError, match="holds its images itself; name a folder"):
        read_pairs(source)
    for braces in ("{5..2}", "{0..999999999}"):
        with pytest.raises(DataError, match="say the smaller number first, and 100,000 files"):
            list(read_pairs(f"{tmp_path}/t-{braces}.tar", into=tmp_path))


def test_a_tensorflow_data_set_that_is_not_there_is_named(toy, tmp_path):
    for name, columns, sentence in (
        ("tfds:no_such_set", Columns(), "tfds:no_such_set is not readable as a data set that"),
        (f"tfds:{toy}:nowhere", Columns(), "Unknown split 'nowhere'"),
        (f"tfds:{toy}", Columns(caption="text"), r"has features .*; expected \['image', 'text'\]"),
        (f"tfds:{toy}", Columns(image="caption"), "record 0 is not readable as a picture"),
    ):
        with pytest.raises(DataError, match=sentence) as caught:
            list(read_pairs(name, columns=columns, into=tmp_path))
        assert "\n" not in str(caught.value)
