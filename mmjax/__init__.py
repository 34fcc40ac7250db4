"""mmjax: adapt frozen multimodal models to a language, a domain, an objective or instructions.

The public names are imported on first use, so that `import mmjax` and `--help` stay quick.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmjax.commands.notebook import Study as Study
    from mmjax.commands.notebook import open_study as open_study
    from mmjax.commands.notebook import train as train
    from mmjax.encoders import load_encoder as load_encoder
    from mmjax.errors import MmjaxError as MmjaxError
    from mmjax.predict import load_adapter as load_adapter
    from mmjax.tasks.dual_encoder.adapted import Adapted as Adapted
    from mmjax.tasks.instruct.answering import Answering as Answering
    from mmjax.tasks.prompts.adapted import Classifier as Classifier

__version__ = "0.1.0"

_PUBLIC = {
    "Study": "mmjax.commands.notebook",
    "open_study": "mmjax.commands.notebook",
    "train": "mmjax.commands.notebook",
    "load_encoder": "mmjax.encoders",
    "load_adapter": "mmjax.predict",
    "Adapted": "mmjax.tasks.dual_encoder.adapted",
    "Answering": "mmjax.tasks.instruct.answering",
    "Classifier": "mmjax.tasks.prompts.adapted",
    "MmjaxError": "mmjax.errors",
}

__all__ = [
    "Adapted",
    "Answering",
    "Classifier",
    "MmjaxError",
    "Study",
    "__version__",
    "load_adapter",
    "load_encoder",
    "open_study",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'mmjax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
