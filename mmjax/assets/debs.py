"""Debian packages: found in the user's folder or downloaded by apt, checked, read as archives.

Nothing of a package is installed or executed; only listed members are unpacked. A .deb is an `ar`
archive with a tar archive in it, both of which the standard library and a few lines here read.
"""

import hashlib
import io
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from mmjax.assets.archives import REMEDY, check_digest, unpacking
from mmjax.assets.asset import Asset, Member
from mmjax.errors import AssetError, is_full_disk
from mmjax.files import combined
from mmjax.progress import status

_MAGIC = b"!<arch>\n"
_HEADER = 60  # bytes before each file of an `ar` archive
_CHUNK = 1 << 20
_TIMEOUT = 1800  # seconds that apt may take


def in_folder(asset: Asset, folder: Path) -> Path | None:
    """Finds the package of an asset among files that the user put into a folder.

    Args:
      asset: whose package.
      folder: where to look; need not exist.

    Returns:
      The .deb, or None.
    """
    if not folder.is_dir():
        return None
    # apt writes an epoch ("1:") as "1%3a", the pool of Debian leaves it out.
    version = re.escape(asset.version.rpartition(":")[2])
    pattern = re.compile(rf"{re.escape(asset.package)}_(\d+(%3a|:))?{version}_[a-z0-9]+\.deb", re.I)
    return next((f for f in sorted(folder.glob("*.deb")) if pattern.fullmatch(f.name)), None)


def advice(asset: Asset, folder: Path) -> str:
    """What to do where apt cannot help."""
    return (
        f"where apt is, run `apt-get download {asset.requirement}` (or get {asset.url}) and put "
        f"the .deb into {folder}"
    )


def download(asset: Asset, folder: Path, remedy: str) -> Path:
    """Lets apt download the package of an asset, with the system's own sources and proxy.

    Args:
      asset: whose package.
      folder: an empty folder.
      remedy: what to do when apt cannot.

    Returns:
      The .deb.

    Raises:
      AssetError: there is no apt, or it finds no such package.
      OSError: the disk is full.
    """
    apt = shutil.which("apt-get")
    if apt is None:
        raise AssetError(
            f"asset {asset.name} is a Debian package, and this machine has no apt-get; {remedy}"
        )
    command = [apt, "download", "-q", "-o", "APT::Sandbox::User=root", asset.requirement]
    with status(f"downloading {asset.requirement}"):
        try:
            done = subprocess.run(
                command,
                cwd=folder,
                env={**os.environ, "LC_ALL": "C.UTF-8"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_TIMEOUT,
            )
        except subprocess.TimeoutExpired:
            raise AssetError(
                f"apt-get took more than {_TIMEOUT} s for {asset.requirement}; {remedy}"
            ) from None
    package = in_folder(asset, folder)
    if done.returncode == 0 and package is not None:
        return package
    output = f"{done.stdout}\n{done.stderr}"
    if is_full_disk(OSError(output)):
        raise OSError(28, f"No space left on device for {asset.requirement}")
    lines = [line.strip() for line in output.splitlines() if line.startswith("E:")]
    reason = (lines or ["it said nothing"])[0].removeprefix("E: ")[:300].rstrip(".")
    raise AssetError(f"apt cannot get {asset.requirement} ({reason}); {remedy}")


def extract(asset: Asset, package: Path, folder: Path) -> None:
    """Unpacks the listed members of a package into a folder and checks every hash.

    Args:
      asset: which members, with their sizes and hashes.
      package: the .deb.
      folder: an empty folder to fill with the members' targets.

    Raises:
      AssetError: no package, a member lacks, has another size or hash, or would leave the folder.
    """
    digests: dict[str, dict[str, str]] = {member.path: {} for member in asset.members}
    left = {member.path: member.size for member in asset.members}
    damaged = (tarfile.TarError, EOFError, ValueError, OSError)
    with (
        unpacking(package, "Debian package", damaged),
        package.open("rb") as file,
        tarfile.open(fileobj=_data(file, package), mode="r|*") as archive,
    ):
        for entry in archive:
            name = entry.name.removeprefix("./")
            member = _member_of(asset, name)
            if member is None or not entry.isfile():  # links say nothing new
                continue
            inner = _inner(member, name, package)
            left[member.path] -= entry.size
            if left[member.path] < 0:
                raise AssetError(
                    f"{package}: {member.path} holds more than {member.size} bytes; {REMEDY}"
                )
            source = archive.extractfile(entry)
            assert isinstance(source, io.BufferedIOBase)  # of a file, not of a link
            target = folder / member.target / inner if inner else folder / member.target
            digests[member.path][inner] = _write(source, target)
    for member in asset.members:
        _compare(member, digests[member.path], package)


def _data(file: io.BufferedIOBase, package: Path) -> io.BufferedIOBase:
    """The open file at the start of its `data.tar`, which ends with the file."""
    if file.read(len(_MAGIC)) != _MAGIC:
        raise AssetError(f"{package} is no Debian package; {REMEDY}")
    for name, size in _entries(file):
        if name.startswith("data.tar"):
            return file
        file.seek(size + size % 2, os.SEEK_CUR)
    raise AssetError(f"{package} holds no data.tar: it is truncated or damaged; {REMEDY}")


def _entries(file: io.BufferedIOBase) -> Iterator[tuple[str, int]]:
    """(name, size) of each file of an `ar` archive; whoever asks moves on by the size."""
    while len(header := file.read(_HEADER)) == _HEADER:
        yield header[:16].decode("ascii", "replace").strip().rstrip("/"), int(header[48:58])


def _member_of(asset: Asset, name: str) -> Member | None:
    """The member that a file of the package belongs to."""
    for member in asset.members:
        inside = name.startswith(member.path) if member.is_folder else name == member.path
        if inside and (not member.suffixes or name.endswith(member.suffixes)):
            return member
    return None


def _inner(member: Member, name: str, package: Path) -> str:
    """A file's name below its folder; "" for a member that is a file."""
    inner = name.removeprefix(member.path) if member.is_folder else ""
    parts = PurePosixPath(inner).parts
    if ".." in parts or inner.startswith("/") or "\\" in inner or ":" in inner:
        raise AssetError(
            f"{package} holds {name!r}, which would be written outside of its folder; delete that "
            "package: nobody should install it"
        )
    return inner


def _write(source: io.BufferedIOBase, target: Path) -> str:
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with target.open("xb") as sink:
        while block := source.read(_CHUNK):
            digest.update(block)
            sink.write(block)
    return digest.hexdigest()


def _compare(member: Member, digests: dict[str, str], package: Path) -> None:
    if len(digests) != member.count:
        raise AssetError(
            f"{package}: {member.path} has {len(digests)} files, expected {member.count}; {REMEDY}"
        )
    check_digest(member, combined(digests) if member.is_folder else digests[""], package)
