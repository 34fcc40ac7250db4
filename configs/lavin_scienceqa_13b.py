"""LaVIN-13B on ScienceQA: as `lavin_scienceqa_7b`, with LLaMA-13B and temperature 5.

  python -m mmjax.main --config configs/lavin_scienceqa_13b.py \
      --config.encoders.language.source=/data/llama-13b \
      --config.questions.source=scienceqa:/data/scienceqa

Not measured: bring the data and the weights (see there). `:tiny` trains two steps on whatever
folders are given. The paper also has a row of 40 epochs: `--config.train.steps=15960`.
"""

from typing import Any

from ml_collections import ConfigDict

from configs.lavin_scienceqa_7b import get_config as smaller


def get_config(choice: str = "default") -> ConfigDict:
    """The recipe; `choice` is `default` or `tiny`."""
    config: Any = smaller(choice)
    config.name = config.name.replace("7b", "13b")
    config.encoders.language.source = "llama-13b"
    config.instruct.temperature = 5.0
    return config
