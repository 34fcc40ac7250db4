"""LaVIN's chat model: LLaMA-13B learns to follow instructions, with a picture or without one.

  python -m mmjax.main --config configs/lavin_chat.py \
      --config.encoders.language.source=/data/llama-13b \
      --config.questions.source=llava:/data/llava_instruct_150k.json \
      --config.questions.mix='("alpaca:/data/alpaca_data.json",)' \
      --config.questions.images=/data/train2014

Not measured: bring the data and the weights. LLaVA-Instruct (liuhaotian/LLaVA-Instruct-150K, with
COCO's pictures; the names in the file must be names in the folder), Stanford Alpaca's
alpaca_data.json, LLaMA-1 13B and CLIP as in `lavin_scienceqa_13b`.

The paper's recipe: the ScienceQA one at temperature 5, for 15 epochs of some 209,000 rows in
batches of 32 with 0.2 epochs of warm-up. It differs in that conversations stay whole, each answer
learned after what was said before it, where the original cuts them into single turns; in that rows
with an empty answer are left out; and in 512 rows that are held out, the perplexity of half of
which is reported beside that with a white picture. `:tiny` trains two steps on whatever files are
given.
"""

from typing import Any

from ml_collections import ConfigDict

from configs.lavin_scienceqa_13b import get_config as scienceqa

# Steps, in batches of 32: 157,712 rows about pictures, and 51,974 of Alpaca's that have an answer,
# without the 512 that are held out.
EPOCH = 6538


def get_config(choice: str = "default") -> ConfigDict:
    """The recipe; `choice` is `default` or `tiny`."""
    config: Any = scienceqa(choice)
    tiny = choice == "tiny"
    config.name = "lavin_chat" + ("_tiny" if tiny else "")
    config.evals = ("held_out",)
    config.questions = dict(
        source="llava:llava_instruct_150k.json",
        mix=("alpaca:alpaca_data.json",),
        images="train2014",
        train_pictures=0,
        val_pictures=2 if tiny else 256,
        test_pictures=2 if tiny else 256,
        per_picture=1,
        skip_empty=True,
    )
    if not tiny:
        config.optim.warmup_steps = EPOCH // 5
        config.train.steps = 15 * EPOCH
        config.train.eval_every = EPOCH
        config.train.save_every = EPOCH // 4
    return config
