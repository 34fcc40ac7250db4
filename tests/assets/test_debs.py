"""Debian packages: read without Debian, checked, and turned into pictures with captions."""

import dataclasses
import hashlib
import io
import json
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmjax.assets import debs, store
from mmjax.assets.asset import Asset, Member
from mmjax.assets.manifest import MANIFEST
from mmjax.data.corpora import openclipart, stamps
from mmjax.errors import AssetError, MmjaxError
from mmjax.specs.data import PairsSpec

SVG = """<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" {size}>
<metadata><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"
 xmlns:cc="http://web.resource.org/cc/" xmlns:dc="http://purl.org/dc/elements/1.1/">
<cc:Work><dc:title>{title}</dc:title><dc:subject><rdf:Bag><rdf:li>hash</rdf:li>
<rdf:li>fruit</rdf:li></rdf:Bag></dc:subject></cc:Work></rdf:RDF></metadata>
<rect x="60" y="80" width="20" height="10" fill="red"/></svg>"""


def png(photo, alpha=255):
    """Noise, which no two neighbours share; or one colour throughout."""
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30, 4)).astype(np.uint8)
    if not photo:
        pixels[:] = 90
    pixels[..., 3] = alpha
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def ar(name, data):
    header = f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n"
    return header.encode() + data + b"\n" * (len(data) % 2)


def write_deb(path, files, links=()):
    """A package as dpkg-deb writes it: `ar` of a version, a control archive and a data archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(f"./{name}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
        for name, target in links:
            entry = tarfile.TarInfo(f"./{name}")
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            archive.addfile(entry)
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = [
        ("debian-binary", b"2.0\n"),
        ("control.tar.xz", b"odd"),
        ("data.tar.xz", buffer.getvalue()),
    ]
    path.write_bytes(b"!<arch>\n" + b"".join(ar(*part) for part in parts))
    return path


def sha(data):
    return hashlib.sha256(data).hexdigest()


def member(files, path, target, suffixes=()):
    """The pin of these files, as the manifest has it."""
    own = {n.removeprefix(path): d for n, d in files.items() if n.startswith(path)}
    own = {n: d for n, d in own.items() if not suffixes or n.endswith(suffixes)}
    lines = "".join(f"{n} {sha(d)}\n" for n, d in sorted(own.items()))
    digest = sha(lines.encode()) if path.endswith("/") else sha(own[""])
    return Member(path, target, sum(map(len, own.values())), digest, len(own), suffixes)


def asset_of(name, deb, members):
    """The manifest's own entry with the pins of a tiny package."""
    return dataclasses.replace(MANIFEST[name], wheel_sha256=sha(deb.read_bytes()), members=members)


STAMPS = {
    "usr/share/doc/tuxpaint-stamps-default/copyright": b"GPL-2",
    "usr/share/tuxpaint/stamps/animals/cat.png": png(True),
    "usr/share/tuxpaint/stamps/animals/cat.txt": (
        "A cat.\nzh_CN.utf8=一只猫。\nde.utf8=Eine Katze.\nja.utf8=\n".encode()
    ),
    "usr/share/tuxpaint/stamps/animals/cat_mirror.png": png(True),
    "usr/share/tuxpaint/stamps/animals/cat.ogg": b"miaow",
    "usr/share/tuxpaint/stamps/animals/tom.png": png(True),
    "usr/share/tuxpaint/stamps/animals/tom.txt": b"A cat!\nde.utf8=Ein Kater.\n",
    "usr/share/tuxpaint/stamps/food/pear.png": png(True, alpha=254),
    "usr/share/tuxpaint/stamps/food/pear.txt": b"A pear.\nde.utf8=Eine Birne.\n",
    "usr/share/tuxpaint/stamps/town/drawn.png": png(False),
    "usr/share/tuxpaint/stamps/town/drawn.txt": b"A drawing.",
    "usr/share/tuxpaint/stamps/symbols/a.png": png(True),
    "usr/share/tuxpaint/stamps/symbols/a.txt": b"The letter A.",
}
DRAWINGS = {
    "usr/share/doc/openclipart-svg/copyright": b"public domain",
    **{
        f"usr/share/openclipart/svg/{name}.svg": SVG.format(
            title=title, size='width="210mm" height="297mm"'
        ).encode()
        for name, title in {
            "food/apple_01": "Red Apple 01",
            "food/apple_02": "red apple",
            "food/gramastar": "gramastar",
            "animals/none": "",
            "signs_and_symbols/apple": "apple",
        }.items()
    },
}


@pytest.fixture
def packages(workshop, monkeypatch):
    """Both packages in the user's folder, and a manifest that pins them."""
    stamp = write_deb(
        workshop.wheels / "tuxpaint-stamps-default_2022.06.04-1_all.deb",
        STAMPS,
        [("usr/share/tuxpaint/stamps/animals/link.png", "/etc/passwd")],
    )
    drawn = write_deb(workshop.wheels / "openclipart-svg_1%3a0.18+dfsg-19_all.deb", DRAWINGS)
    found = {
        "tuxpaint-stamps": asset_of(
            "tuxpaint-stamps",
            stamp,
            (
                member(STAMPS, "usr/share/tuxpaint/stamps/", "stamps/", (".png", ".txt")),
                member(STAMPS, "usr/share/doc/tuxpaint-stamps-default/copyright", "copyright"),
            ),
        ),
        "openclipart": asset_of(
            "openclipart",
            drawn,
            (
                member(DRAWINGS, "usr/share/openclipart/svg/", "svg/", (".svg",)),
                member(DRAWINGS, "usr/share/doc/openclipart-svg/copyright", "copyright"),
            ),
        ),
    }
    monkeypatch.setattr(store, "find_asset", lambda name: found[name])
    return found


def test_photographs_are_told_from_drawings_and_captions_read_by_language(packages):
    corpus = stamps.load_stamps("", PairsSpec(), ("de", "en"))
    assert [item.id for item in corpus.items] == ["animals/cat", "animals/tom", "food/pear"]
    assert len({item.family for item in corpus.items}) == 2  # near-duplicates stay on one side
    asked = {(query.language, query.text): query.items for query in corpus.queries}
    assert asked["en", "A cat"] == ("animals/cat", "animals/tom")
    assert asked["de", "Ein Kater"] == ("animals/tom",)
    cat = corpus.items[0]
    assert cat.captions == {"de": ("Eine Katze",), "en": ("A cat",)}
    assert (cat.family, cat.label) == ("a cat", "animals")
    assert corpus.labels["animals"]["de"] == "Tiere"
    assert cat.picture("photo").size == (30, 20)
    # What lacks a caption in a language is left out of it.
    chinese = stamps.load_stamps("", PairsSpec(), ("zh", "en"))
    assert [item.captions["zh"] for item in chinese.items] == [("一只猫",)]
    assert chinese.fingerprint != corpus.fingerprint
    with pytest.raises(MmjaxError, match="no stamp has captions in all of them"):
        stamps.load_stamps("", PairsSpec(), ("ja", "en"))
    folder = store.folder_of(packages["tuxpaint-stamps"])
    assert (folder / "copyright").read_text() == "GPL-2"  # who shows them must name it


def test_drawings_are_rendered_once_and_titles_that_say_nothing_left_out(packages):
    pytest.importorskip("resvg_py")
    corpus = openclipart.load_openclipart("", PairsSpec(), ("en", "en"))
    assert [item.id for item in corpus.items] == ["food/apple_01", "food/apple_02"]
    assert [item.captions["en"] for item in corpus.items] == [
        ("Red Apple", "fruit"),
        ("red apple", "fruit"),
    ]
    assert {item.family for item in corpus.items} == {"red apple"}
    picture = corpus.items[0].picture("drawing")
    width, height = picture.size  # the paper around it is gone
    assert width == pytest.approx(2 * height, abs=2)
    assert np.asarray(picture)[height // 2, width // 2].tolist() == [255, 0, 0]
    rows = (store.folder_of(packages["openclipart"]) / "rows.jsonl").read_text().splitlines()
    assert [json.loads(row)["group"] for row in rows] == ["food"] * 3
    with pytest.raises(MmjaxError, match="openclipart's titles are in 'en'"):
        openclipart.load_openclipart("", PairsSpec(), ("zh", "zh"))


def test_what_is_fetched_on_demand_is_not_fetched_with_the_rest(monkeypatch):
    asked = []
    monkeypatch.setattr(store, "ensure", lambda asset, also=(): asked.append(asset.name) or Path())
    store.fetch()
    assert "openmoji" in asked
    assert not {"tuxpaint-stamps", "openclipart", "noto-emoji", "emoji-names"} & set(asked)
    store.fetch(["stamps"])
    assert asked[-1] == "tuxpaint-stamps"


def test_without_apt_the_folder_for_the_package_is_named(workshop, monkeypatch):
    asset = MANIFEST["openclipart"]
    with pytest.raises(AssetError, match="MMJAX_OFFLINE is set; where apt is, run `apt-get down"):
        store.ensure(asset)
    monkeypatch.delenv("MMJAX_OFFLINE")
    monkeypatch.setattr(debs.shutil, "which", lambda name: None)
    with pytest.raises(
        AssetError, match=r"no apt-get; .*openclipart-svg_0\.18\+dfsg-19_all\.deb"
    ) as e:
        store.ensure(asset)
    assert str(workshop.wheels) in str(e.value)
    assert not workshop.leftovers()


def test_apt_is_asked_and_its_own_reason_told(workshop, monkeypatch):
    monkeypatch.delenv("MMJAX_OFFLINE")
    monkeypatch.setattr(debs.shutil, "which", lambda name: "/usr/bin/apt-get")
    commands = []

    def run(command, **options):
        commands.append(command)
        text = "E: Version '1' for 'openclipart-svg' was not found\n"
        return subprocess.CompletedProcess(command, 100, "", text)

    monkeypatch.setattr(debs.subprocess, "run", run)
    with pytest.raises(AssetError, match=r"apt cannot get openclipart-svg=1:0\.18.* not found\)"):
        store.ensure(MANIFEST["openclipart"])
    assert commands[0][-1] == "openclipart-svg=1:0.18+dfsg-19"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[: len(data) // 2], "is truncated or damaged|is no whole Debian package"),
        (lambda data: b"PK" + data[2:], "is no Debian package"),
        (lambda data: data[:8] + ar("control.tar.xz", b"x"), "holds no data.tar"),
    ],
    ids=["cut", "other", "empty"],
)
def test_a_damaged_package_is_told_in_one_sentence(packages, workshop, change, message):
    path = workshop.wheels / "tuxpaint-stamps-default_2022.06.04-1_all.deb"
    path.write_bytes(change(path.read_bytes()))
    pinned = packages["tuxpaint-stamps"]
    with pytest.raises(AssetError, match="has sha256"):
        store.ensure(pinned)
    with pytest.raises(AssetError, match=message):
        store.ensure(dataclasses.replace(pinned, wheel_sha256=None))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("usr/share/x/../../../../evil.png", "written outside of its folder"),
        ("usr/share/x/more.png", "holds more than"),
    ],
)
def test_a_package_that_holds_more_than_its_pin_writes_nothing_there(tmp_path, name, message):
    files = {"usr/share/x/a.png": b"1234"}
    pin = member(files, "usr/share/x/", "x/", (".png",))
    asset: Asset = dataclasses.replace(MANIFEST["openclipart"], members=(pin,))
    deb = write_deb(tmp_path / "x.deb", {**files, name: b"5678"})
    with pytest.raises(AssetError, match=message):
        debs.extract(asset, deb, tmp_path / "out" / "deep" / "down")
    assert not list(tmp_path.rglob("evil.png"))
    assert not list(tmp_path.rglob("more.png"))


def test_a_pin_of_other_bytes_or_of_what_lacks_is_told(tmp_path):
    files = {"usr/share/x/a.png": b"1234"}
    pin = member(files, "usr/share/x/", "x/", (".png",))
    deb = write_deb(tmp_path / "x.deb", {"usr/share/x/a.png": b"1235"})
    asset = dataclasses.replace(MANIFEST["openclipart"], members=(pin,))
    with pytest.raises(AssetError, match="damaged or another file"):
        debs.extract(asset, deb, tmp_path / "one")
    lacking = dataclasses.replace(asset, members=(dataclasses.replace(pin, count=2),))
    with pytest.raises(AssetError, match="has 1 files, expected 2"):
        debs.extract(lacking, deb, tmp_path / "two")
