"""Other projects' checkpoints, as torch or safetensors write them."""

from pathlib import Path

from mmjax.errors import MmjaxError
from mmjax.weights.safetensors import SafetensorsFile
from mmjax.weights.torch_file import TorchFile


def open_checkpoint(path: Path, whose: str, expected: str) -> SafetensorsFile | TorchFile:
    """Opens a checkpoint, without executing its pickle.

    Args:
      path: `.safetensors`, or whatever torch wrote; what is beside tensors in it is passed over.
      whose: the project's name, for messages.
      expected: ends the sentence where there is none.

    Returns:
      The file.

    Raises:
      MmjaxError: there is none, or it is damaged.
    """
    if not path.is_file():
        raise MmjaxError(f"no {whose} checkpoint at {path}; expected {expected}")
    is_safe = path.suffix == ".safetensors"
    return SafetensorsFile(path) if is_safe else TorchFile(path, others_inert=True)
