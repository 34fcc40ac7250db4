"""Small wheels and manifest entries made on the spot; no network."""

import dataclasses
import hashlib
import json
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from mmjax.assets.asset import Asset, Member

FILES = {
    "fake_pkg/data/a.txt": b"hello" * 1000,
    "fake_pkg/images/0.png": b"zero",
    "fake_pkg/images/deep/1.png": b"one",
    "fake_pkg/__init__.py": b"raise SystemExit('imported')",
}

# Makes the asset in another process, as two users' commands would; `slow` stretches the conversion.
_CHILD = """
import json, sys, time
from mmjax.assets import convert, store
from mmjax.assets.asset import Asset, Member
from mmjax.errors import MmjaxError
fields, slow = json.loads(sys.argv[1]), float(sys.argv[2])
fields["members"] = tuple(Member(**m) for m in fields["members"])
def copy(raw, out, done=convert.copy):
    print("converting", flush=True)
    done(raw, out)
    time.sleep(slow)
convert.CONVERTERS = {"copy": copy}
try:
    print("ready", store.ensure(Asset(**fields)).name, flush=True)
except MmjaxError as error:
    sys.exit(f"error: {error}")
"""


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Workshop:
    """Makes wheels, assets and child processes around one empty cache."""

    files = FILES

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self.wheels = cache / "wheels"

    def wheel(self, files: Mapping[str, bytes] = FILES, folder: Path | None = None) -> Path:
        folder = folder or self.wheels
        folder.mkdir(parents=True, exist_ok=True)
        wheel = folder / "fake_pkg-1.2-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        return wheel

    def asset(self, wheel: Path | None = None, **changes: Any) -> Asset:
        """An asset with the members of FILES; its wheel is pinned where one is given."""
        tree = {n.removeprefix("fake_pkg/images/"): d for n, d in FILES.items() if "images" in n}
        lines = "".join(f"{n} {_sha(d)}\n" for n, d in sorted(tree.items()))
        fields: dict[str, Any] = {
            "name": "fake",
            "kind": "data",
            "package": "fake-pkg",
            "version": "1.2",
            "wheel_sha256": _sha(wheel.read_bytes()) if wheel else None,
            "members": (
                Member("fake_pkg/data/a.txt", "a.txt", 5000, _sha(FILES["fake_pkg/data/a.txt"])),
                Member("fake_pkg/images/", "images/", 7, _sha(lines.encode()), 2),
            ),
            "converter": "copy",
            "conversion": 1,
            "licence": "MIT",
            "attribution": "nobody",
        }
        return Asset(**(fields | changes))

    def child(self, asset: Asset, slow: float = 0.0) -> subprocess.Popen[str]:
        fields = json.dumps(dataclasses.asdict(asset))
        return subprocess.Popen(
            [sys.executable, "-c", _CHILD, fields, str(slow)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def leftovers(self) -> Sequence[str]:
        """Files in the cache that are neither wheels, nor locks, nor of a ready folder."""
        names = [p.relative_to(self.cache).as_posix() for p in self.cache.rglob("*") if p.is_file()]
        kept = ("wheels/", "assets/.locks/", "assets/.checked/", "assets/fake-1.2-1/")
        return [name for name in names if not name.startswith(kept)]


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    """An empty cache, and no way to a package index."""
    monkeypatch.setenv("MMJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MMJAX_OFFLINE", "1")
    return Workshop(tmp_path / "cache")
