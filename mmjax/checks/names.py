"""Names that become files and folders: one rule, at the door.

A name comes from a recipe, a flag or another's file and ends in a path: of a run, of a stage, of an
export. It must stay one part of that path, on every system, and Orbax must find it again.
"""

import os
import re
from pathlib import Path

from mmjax.errors import MmjaxError, shown

LONGEST = 120  # bytes: file systems take 255, and names get endings
_REFUSED = '<>:"/\\|?*[]'  # of another system, or of a pattern: Orbax looks files up by patterns
_EXPECTED = (
    f"a name of at most {LONGEST} bytes without {' '.join(_REFUSED)} or line breaks, that begins "
    "with a letter, a digit or '_' and does not end in a space or '.'"
)


def check_name(where: str, name: object) -> str:
    """A name that can be one part of a path.

    Args:
      where: names it in the message: the setting, or the file and the key.
      name: what stands there.

    Returns:
      The name.

    Raises:
      MmjaxError: it is no such name.
    """
    good = (
        isinstance(name, str)
        and name.isprintable()
        and (name[:1].isalnum() or name[:1] == "_")
        and not name.endswith((" ", "."))
        and not set(name) & set(_REFUSED)
        and len(os.fsencode(name)) <= LONGEST
    )
    if not good or not isinstance(name, str):
        raise MmjaxError(f"{where} is {shown(name)}; expected {_EXPECTED}")
    return name


def check_different(where: str, names: list[str]) -> None:
    """Refuses names that are one name to a file system which does not tell letters' cases apart.

    Raises:
      MmjaxError: two names are the same.
    """
    if len({name.casefold() for name in names}) < len(names):
        raise MmjaxError(f"{where} are {names}; expected names that differ from each other")


def check_local(flag: str, path: str) -> None:
    """Refuses a bucket, which would be taken for a local folder of that name.

    Args:
      flag: how the path was given.
      path: any.

    Raises:
      MmjaxError: it begins as gs:// or s3:// does; `pathlib` makes gs:/ of that.
    """
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/", path)
    if match:
        raise MmjaxError(
            f"{flag} is {shown(path)}, in a store that is no folder of this machine; mount the "
            "bucket (Cloud Storage FUSE, Mountpoint for S3) and give the folder it is mounted at"
        )


def check_folder(flag: str, folder: Path) -> Path:
    """A folder that a user names, in which Orbax can find again what it saves.

    Args:
      flag: how the folder was given.
      folder: any path.

    Returns:
      The folder.

    Raises:
      MmjaxError: a letter in its whole path that Orbax takes for a pattern or a place elsewhere.
    """
    check_local(flag, str(folder))
    path = str(folder.absolute())
    forbidden = sorted({x for x in path if x in "\\[]*?" or not x.isprintable()})
    if forbidden or any(part.endswith(":") for part in folder.absolute().parts):
        letters = " ".join(repr(x) for x in forbidden) or "':' at the end of a folder's name"
        raise MmjaxError(
            f"{flag} is {shown(path)}, with {letters} in it: checkpoints there could not be read "
            "again; choose another folder"
        )
    return folder
