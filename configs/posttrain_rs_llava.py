"""AdaMLLM on remote sensing: LLaVA-NeXT-Llama3-8B learns aerial pictures' captions and tasks.

  python -m mmjax.main --config configs/posttrain_rs_llava.py \
      --config.encoders.language.source=/data/open-llava-next-llama3-8b \
      --config.questions.source=records:/data/composed.jsonl \
      --config.questions.images=/data/aerial --config.mesh.model=8

Not measured: bring the data and the weights. All but the size is that of `posttrain_biomed_llava`,
presets too: the paper makes records of 40,000 captions (NWPU-Captions, RSICD, RSITMD,
Sydney-Captions, UCM-Captions), and keeps the tasks of 15,000 of them; 2 hours on 8 A100.
"""

from ml_collections import ConfigDict

from configs.posttrain_biomed_llava import make

RECORDS, TASKS = 40_000, 15_000


def get_config(choice: str = "default") -> ConfigDict:
    """The recipe; `choice` as of `posttrain_biomed_llava`."""
    return make("posttrain_rs_llava", choice, RECORDS, TASKS)
