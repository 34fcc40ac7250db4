import io
import os
import pickle
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image

from mmjax import assets
from mmjax.data import sources
from mmjax.data.builders import emoji as emoji_builder
from mmjax.data.builders.emoji_table import read_table
from mmjax.errors import AssetError, DataError

DICTIONARY = [
    f"字 {chr(0x4E00 + i)}{chr(0x5200 + j)} [zi4] /word {i} {j}/" for i in range(3) for j in (1, 2)
]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache and a dictionary of a few words."""
    files = tmp_path / "files"
    files.mkdir()
    (files / "cedict_1_0_ts_utf-8_mdbg.txt").write_text("\n".join(DICTIONARY), "utf-8")
    (files / "hsk2.txt").write_text("// 1\n一刁\n", "utf-8")
    (files / "hsk3.txt").write_text("// 1\n", "utf-8")
    font = assets.path("openmoji")
    monkeypatch.setenv("MMJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(assets, "path", lambda name: {"cedict": files, "openmoji": font}[name])
    monkeypatch.setattr(emoji_builder, "read_table", lambda: read_table()[:4])
    return tmp_path / "cache"


def _files(cache):
    names = [p.relative_to(cache).as_posix() for p in cache.rglob("*") if p.is_file()]
    return [name for name in names if ".locks" not in name]


def test_cedict_records(cache):
    source = sources.load_source("cedict")
    assert len(source) > 0
    records = [source[i] for i in range(len(source))]
    assert list(source) == records
    assert set(records[0]) == {"zh", "en", "glosses_en", "pinyin", "common"}
    assert records[0]["en"] == "word 0 1"
    assert records[0]["common"] in (0, 1)
    assert [r["zh"] for r in records] == sorted({r["zh"] for r in records}, key=str)
    assert source[-1] == records[-1]
    with pytest.raises(IndexError):
        source[len(source)]


def test_emoji_records(cache):
    source = sources.load_source("emoji", pixels=48)
    assert len(source) == 4
    record = source[0]
    assert (record["id"], record["emoji"], record["style"]) == ("1F600", "😀", "openmoji")
    assert record["keywords_zh"] == "笑脸|脸|高兴"
    assert record["family"] == "1F600"
    with Image.open(io.BytesIO(record["image"])) as image:
        assert (image.format, image.size, image.mode) == ("PNG", (48, 48), "RGB")
    assert "tensorflow" not in sys.modules


def test_made_once_then_found(cache):
    source = sources.load_source("cedict")
    stamp = (source.folder / "source.json").stat().st_mtime_ns
    again = sources.load_source("cedict")
    assert again == source
    assert (source.folder / "source.json").stat().st_mtime_ns == stamp
    assert all(name.startswith(f"datasets/{source.folder.name}/") for name in _files(cache))


def test_the_fingerprint_is_of_the_content(cache, monkeypatch):
    first = sources.load_source("emoji", pixels=32)
    for path in sorted(first.folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    assert sources.load_source("emoji", pixels=32).fingerprint == first.fingerprint
    assert sources.load_source("emoji", pixels=40).fingerprint != first.fingerprint


def test_a_source_can_be_sent_to_another_process(cache):
    source = sources.load_source("cedict")
    first = source[0]
    assert pickle.loads(pickle.dumps(source))[0] == first


def test_a_killed_half_is_made_again(cache, tmp_path):
    """A process that dies while it writes leaves nothing that anybody takes for a data set."""
    code = (
        "import time\nfrom pathlib import Path\nfrom mmjax.assets.workspace import workspace\n"
        f"with workspace(Path({str(cache / 'datasets')!r}), 'cedict-x') as work:\n"
        "    (work / 'half').write_text('half')\n    print('working', flush=True)\n"
        "    time.sleep(60)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "working\n"
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    assert any("half" in name for name in _files(cache))
    from mmjax.assets.workspace import workspace

    start = time.monotonic()
    with workspace(cache / "datasets", "cedict-x") as work:
        assert list(work.iterdir()) == []
    assert time.monotonic() - start < 5  # the lock died with its holder
    assert _files(cache) == []


def test_a_failing_build_leaves_nothing(cache, monkeypatch):
    def broken(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(emoji_builder, "draw_png", broken)
    with pytest.raises(DataError, match=r"disk of .* is full"):
        sources.load_source("emoji", pixels=32)
    assert _files(cache) == []


def test_damaged_records_name_the_folder(cache):
    source = sources.load_source("cedict")
    (data,) = (source.folder / "data").glob("*.array_record*")
    data.write_bytes(data.read_bytes()[:100])
    with pytest.raises(DataError, match="delete"):
        sources.load_source("cedict")[0]


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("flickr", {}, "no data set is called 'flickr'; there are: emoji, cedict"),
        ("emoji", {"colour": 1}, r"no option \['colour'\]; its options are \['styles', 'pixels'\]"),
        ("emoji", {"styles": ("windows",)}, "choose from"),
        ("emoji", {"styles": ()}, "choose from"),
        ("emoji", {"pixels": 0}, "0 pixels"),
    ],
)
def test_bad_requests_say_the_choices(cache, name, options, match):
    with pytest.raises(DataError, match=match):
        sources.load_source(name, **options)


def test_a_missing_font_is_an_error_only_where_it_was_asked_for(cache, monkeypatch):
    own = assets.path

    def path(name):
        if name == "noto-emoji":
            raise AssetError("it cannot be fetched")
        return own(name)

    monkeypatch.setattr(assets, "path", path)
    monkeypatch.setattr("mmjax.data.builders.emoji_fonts.system_font", lambda style: None)
    with pytest.raises(
        DataError, match=r"no 'noto' emoji font; install it.* \(it cannot be fetched\)"
    ):
        sources.load_source("emoji", styles=("openmoji", "noto"), pixels=32)
    assert len(sources.load_source("emoji", styles=("auto",), pixels=32)) == 4
