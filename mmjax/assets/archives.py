"""What wheels and Debian packages have in common: both are archives of which members are taken."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from mmjax.assets.asset import Member
from mmjax.errors import AssetError

# A downloaded package is gone by the time this is read; one in the user's folder is the user's.
REMEDY = "nothing of it was used; fetch again (delete it first if it lies in your wheels folder)"


@contextlib.contextmanager
def unpacking(package: Path, what: str, kinds: tuple[type[Exception], ...]) -> Iterator[None]:
    """Turns what a library raises over a damaged archive into one sentence.

    Args:
      package: the file.
      what: it should be.
      kinds: how reading it fails; what the file system refuses passes.

    Raises:
      AssetError: the archive is damaged; one that is raised within passes as it is.
    """
    try:
        yield
    except AssetError:
        raise
    except kinds as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the file system
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise AssetError(
            f"{package} is no whole {what} ({reason}): it is truncated or damaged; {REMEDY}"
        ) from error


def check_digest(member: Member, digest: str, package: Path) -> None:
    """Refuses a member whose bytes are not those that are pinned.

    Args:
      member: as pinned.
      digest: sha256 of what was unpacked, as of `Member`.
      package: the file, for the message.

    Raises:
      AssetError: they are others.
    """
    if digest != member.sha256:
        raise AssetError(
            f"{package}: {member.path} has sha256 {digest}, expected {member.sha256}: it is "
            f"damaged or another file; {REMEDY}"
        )
