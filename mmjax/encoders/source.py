"""Finds an encoder's folder and reads its small JSON files."""

import os
from pathlib import Path

from mmjax.errors import MmjaxError, shown
from mmjax.runs import hub


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
    if text.startswith(hub.PREFIX):
        return _snapshot(text)
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

    def fetch(*patterns: str) -> Path:
        ignore = ("onnx/*", "openvino/*", "training_args.bin")
        return hub.snapshot(
            name, patterns, ignore=ignore, otherwise=", or give a local folder instead"
        )

    folder = fetch("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")
    if not any(folder.glob("*.safetensors")):
        folder = fetch("*.bin")  # many repositories have both
    return folder
