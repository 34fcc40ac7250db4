"""Adapters on the Hugging Face hub, or on whatever speaks its API at $HF_ENDPOINT."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmjax.errors import MmjaxError, first_line, shown

PREFIX = "hf:"
# All that is fetched: no code, and nothing that would have to be executed.
_WANTED = ("adapter.safetensors", "adapter_card.json", "README.md")
# What it stands on lies in `base`, and so on however long a chain is; a star matches slashes too.
_FILES = [f"{place}{name}" for place in ("", "base/", "base/*/") for name in _WANTED]


def download(name: str) -> Path:
    """Fetches an adapter, or finds what was fetched before.

    Args:
      name: `hf:ORG/NAME[@REVISION]`.

    Returns:
      Its folder.

    Raises:
      MmjaxError: there is no such repository, no network, or no adapter in it.
    """
    from huggingface_hub import snapshot_download  # slow to import, seldom needed

    repo, _, revision = name.removeprefix(PREFIX).partition("@")
    offline = os.environ.get("MMJAX_OFFLINE") == "1"
    with _speaking(f"cannot get {name} from the hub{' (MMJAX_OFFLINE=1 is set)' * offline}"):
        folder = Path(
            snapshot_download(
                repo,
                revision=revision or None,
                endpoint=os.environ.get("HF_ENDPOINT"),
                local_files_only=offline,
                allow_patterns=_FILES,
            )
        )
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
def _speaking(what: str) -> Iterator[None]:
    """Says in one sentence whatever the hub's client raises."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        yield
    except MmjaxError:
        raise
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        raise MmjaxError(
            f"{what}: {first_line(error)}; check the name, the network and $HF_TOKEN"
        ) from error
