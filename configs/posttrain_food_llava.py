"""AdaMLLM on food: LLaVA-NeXT-Llama3-8B learns recipes and tasks made of them.

  python -m mmjax.main --config configs/posttrain_food_llava.py \
      --config.encoders.language.source=/data/open-llava-next-llama3-8b \
      --config.questions.source=records:/data/composed.jsonl \
      --config.questions.images=/data/recipe1m --config.mesh.model=8

Not measured: bring the data and the weights. All but the size is that of `posttrain_biomed_llava`,
presets too: the paper makes records of 130,000 recipes of Recipe1M with one picture, and keeps the
tasks of 32,000 of them; 6 hours on 8 A100.
"""

from ml_collections import ConfigDict

from configs.posttrain_biomed_llava import make

RECORDS, TASKS = 130_000, 32_000


def get_config(choice: str = "default") -> ConfigDict:
    """The recipe; `choice` as of `posttrain_biomed_llava`."""
    return make("posttrain_food_llava", choice, RECORDS, TASKS)
