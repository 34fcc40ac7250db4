"""Finds an encoder's folder and reads its small JSON files."""

import os
from pathlib import Path

from mmjax.errors import MmjaxError, first_line, shown


def resolve_source(source: str | os.PathLike[str]) -> Path:
    """Turns "asset:NAME", "hf:ORG/NAME[@REVISION]" or a path into what is on this machine.

    Args:
      source: what to find.

    Returns:
      The folder, or a file of weights.

    Raises:
      MmjaxError: says which forms are possible, or why the download failed.
    """
    text = os.fspath(source)
    if text.startswith("asset:"):
        from mmjax import assets

        return assets.path(text.removeprefix("asset:"))
    if text.startswith("hf:"):
        return _snapshot(text.removeprefix("hf:"))
    place = Path(text)
    try:
        place = place.expanduser()
        there = place.exists()
    except (OSError, RuntimeError, ValueError):  # a name too long, an unknown user, NUL
        there = False
    if not text or not there:
        raise MmjaxError(
            f"encoder {shown(text)} is not a folder; give a folder with config.json and "
            'model.safetensors, a .gguf file, "asset:NAME" (python -m mmjax.assets list) or '
            '"hf:ORG/NAME"'
        )
    return place


def _snapshot(name: str) -> Path:
    """Downloads from the Hugging Face hub, or finds what was downloaded before."""
    from huggingface_hub import snapshot_download  # slow to import, seldom needed
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    repo, _, revision = name.partition("@")
    offline = os.environ.get("MMJAX_OFFLINE") == "1"

    def download(*patterns: str) -> Path:
        folder = snapshot_download(
            repo,
            revision=revision or None,
            local_files_only=offline,
            allow_patterns=list(patterns),
            ignore_patterns=["onnx/*", "openvino/*", "training_args.bin"],
        )
        return Path(folder)

    try:
        folder = download("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")
        if not any(folder.glob("*.safetensors")):
            folder = download("*.bin")  # many repositories have both
    except (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OSError,
        ValueError,
    ) as error:
        raise MmjaxError(
            f"cannot get hf:{name} from the Hugging Face hub"
            f"{' (MMJAX_OFFLINE=1 is set)' if offline else ''}: {first_line(error)}; "
            "check the name and the network, or give a local folder instead"
        ) from error
    return folder
