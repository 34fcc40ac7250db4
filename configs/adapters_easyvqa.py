"""Adapters side by side in a language model: kind by kind, SmolLM2 learns what DINOv2 sees.

  python -m mmjax.main --config configs/adapters_easyvqa.py          # three kinds
  python -m mmjax.main --config configs/adapters_easyvqa.py:all      # all six

`lavin_easyvqa` with the frozen picture read once (no adapter sits in DINOv2), short training, and
another kind in SmolLM2-135M each time, with about half a million parameters where its sizes can be
chosen: 460,800 for LoRA of rank 8 on queries and values, say; IA3 has as many as it has. The way
from class tokens to words learns beside each. Asked are the answers to questions about pictures
that nobody has seen, and what is forgotten: the perplexity of plain text with each adapter on.

Measured (3 seeds, 573 questions; all answers, then perplexity of plain text, 20.8 where frozen):

  LoRA      .736 +- .024   22.0        the commonest answer to the same question   .672
  IA3       .720 +- .024   21.3        LoRA, but a white picture                   .657
  routed    .716 +- .047   27.6

Every kind has the same steps, batches and draws, is asked after its last step, and has one rate,
1e-3, that was not searched for any of them but for `routed` (see `lavin_easyvqa`). Needs the assets
smollm2-135m-instruct, dinov2-small and easy_vqa (fetched on first use).
"""

from typing import Any

from ml_collections import ConfigDict

from configs.lavin_easyvqa import get_config as get_lavin

PLACES = ("query", "value")
KINDS: dict[str, dict[str, Any]] = dict(
    dora=dict(adapter="dora", adapter_settings=dict(rank=8, alpha=16.0, targets=PLACES)),
    ia3=dict(adapter="ia3"),
    adaptformer=dict(adapter="adaptformer", adapter_settings=dict(bottleneck=13)),
    prefix=dict(adapter="prefix_tuning", adapter_settings=dict(tokens=40)),
    routed=dict(adapter="routed", rank=8),
)


SOME = ("ia3", "routed")


def get_config(choice: str = "default") -> ConfigDict:
    """The recipe; `choice` is `default`, `all`, or `tiny` for a try in a minute or two."""
    if choice not in ("default", "all", "tiny"):
        raise ValueError(f"{choice!r}; expected 'default', 'all' or 'tiny'")
    tiny = choice == "tiny"
    config: Any = get_lavin("tiny" if tiny else "default")
    config.name = "adapters_easyvqa" + ("" if choice == "default" else f"_{choice}")
    config.instruct.update(adapter="lora", rank=8, alpha=16.0, targets=PLACES, visual=False)
    config.train.update(cache_features=True, select="none")
    if not tiny:
        config.seeds = (0, 1, 2)
        config.questions.update(train_pictures=800, test_pictures=60)
        config.train.update(steps=200, batch_size=8, eval_every=1000, save_every=100)
        config.optim.warmup_steps = 20
    config.variants = {
        name: dict(instruct=dict(own))
        for name, own in KINDS.items()
        if name in SOME or choice == "all"
    }
    return config
