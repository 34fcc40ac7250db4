"""What lies on the Hugging Face hub, or on whatever speaks its API at $HF_ENDPOINT."""

import functools
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mmjax.errors import MmjaxError, first_line, shown

PREFIX = "hf:"
TOLD = 50_000_000  # bytes; a smaller download is not announced
log = logging.getLogger("mmjax")
# All that is fetched: no code, and nothing that would have to be executed.
_WANTED = ("adapter.safetensors", "adapter_card.json", "README.md")
# What it stands on lies in `base`, and so on however long a chain is; a star matches slashes too.
_FILES = [f"{place}{name}" for place in ("", "base/", "base/*/") for name in _WANTED]


def is_offline() -> bool:
    """Whether $MMJAX_OFFLINE forbids every download."""
    return os.environ.get("MMJAX_OFFLINE", "") not in ("", "0")


def snapshot(
    name: str,
    patterns: Sequence[str],
    *,
    kind: str | None = None,
    ignore: Sequence[str] = (),
    look: Callable[[Sequence[str]], None] = lambda files: None,
    otherwise: str = "",
) -> Path:
    """Fetches files of a repository, or finds what was fetched before; tells a large size first.

    Args:
      name: `hf:ORG/NAME[@REVISION]`.
      patterns: of paths in it, with stars.
      kind: "dataset"; None is a model.
      ignore: patterns of paths that are not wanted.
      look: is given the paths before anything is fetched, and may raise.
      otherwise: how the message ends: what else a user may give.

    Returns:
      The folder that holds them.

    Raises:
      MmjaxError: there is no such repository or revision, or no network.
    """
    from huggingface_hub import snapshot_download  # slow to import, seldom needed
    from huggingface_hub.errors import DryRunError
    from rich.filesize import decimal

    repo, _, revision = name.removeprefix(PREFIX).partition("@")
    offline = is_offline()
    fetch = functools.partial(
        snapshot_download,
        repo,
        repo_type=kind,
        revision=revision or None,
        endpoint=os.environ.get("HF_ENDPOINT"),
        local_files_only=offline,
        allow_patterns=list(patterns),
        ignore_patterns=list(ignore),
    )
    said = " (MMJAX_OFFLINE=1 is set)" * offline
    with _speaking(f"cannot get {name} from the Hugging Face hub{said}", otherwise):
        try:
            files = [] if offline else fetch(dry_run=True)
        except DryRunError:  # nobody is there to ask, but a copy may be here
            files = []
        look([file.filename for file in files])
        missing = [file.file_size or 0 for file in files if file.will_download]
        if sum(missing) >= TOLD:
            log.info("%s: fetching %d files, %s", name, len(missing), decimal(sum(missing)))
        return Path(fetch())


def download(name: str) -> Path:
    """Fetches an adapter, or finds what was fetched before.

    Args:
      name: `hf:ORG/NAME[@REVISION]`.

    Returns:
      Its folder.

    Raises:
      MmjaxError: there is no such repository, no network, or no adapter in it.
    """
    folder = snapshot(name, _FILES)
    if not (folder / "adapter_card.json").is_file():
        raise MmjaxError(f"{name} holds no adapter_card.json: it is no adapter of mmjax")
    return folder


def push(folder: Path, repo: str, private: bool = False, message: str = "") -> str:
    """Uploads an export; what stands there already gets another commit.

    Args:
      folder: holds adapter.safetensors, adapter_card.json and README.md.
      repo: `ORG/NAME`; made where it is not there.
      private: whether a new one is seen by its owners alone.
      message: of the commit.

    Returns:
      Where it is.

    Raises:
      MmjaxError: no export, no permission (say `hf auth login`, or set $HF_TOKEN), no network.
    """
    from huggingface_hub import HfApi

    if not (folder / "adapter.safetensors").is_file():
        raise MmjaxError(f"{folder} holds no export (adapter.safetensors is missing)")
    endpoint = os.environ.get("HF_ENDPOINT")
    api = HfApi(endpoint=endpoint)
    with _speaking(f"cannot push to {shown(repo)}"):
        api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            commit_message=message or "Adapter and card, by mmjax",
        )
    return f"{api.endpoint}/{repo}"


@contextmanager
def _speaking(what: str, otherwise: str = "") -> Iterator[None]:
    """Says in one sentence whatever the hub's client raises."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        yield
    except MmjaxError:
        raise
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        raise MmjaxError(
            f"{what}: {first_line(error)}; check the name, the network and $HF_TOKEN{otherwise}"
        ) from error
