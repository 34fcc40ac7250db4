"""Post-training on what `configs/synthesize_emoji.py` made, and its ablations (AdaMLLM in small).

  python -m mmjax.synthesize --config configs/synthesize_emoji.py
  python -m mmjax.main --config configs/posttrain_emoji.py
  python -m mmjax.main --config configs/posttrain_emoji.py:ablations
  python -m mmjax.main --config configs/posttrain_emoji.py:tiny      # after the other's :tiny

Routed adapters in SmolLM2 and a projection of DINOv2's class tokens learn general tasks first, as
a base; from there every way to train on the domain has the same steps, one epoch of the captions:
captions and filtered tasks in a single stage, and with `:ablations` captions alone, rule-made
tasks, general tasks beside captions, unfiltered tasks, and captions before tasks. All are asked 160
questions about pictures of the domain that nothing has seen; half of them want a yes or no. Class
tokens are computed once.

Measured with 3 seeds (commit eb478c3; 85 minutes on one core of a busy machine): no arm knows
anything of the pictures after so few steps, right are .258 at most (tasks made by rule), .219
unfiltered, .065 filtered in a single stage. The table is in docs/guides/posttrain.md.
"""

from typing import Any

from ml_collections import ConfigDict

ABLATIONS = ("captions", "rules", "general_captions", "unfiltered", "two_stage")


def get_config(choice: str = "default") -> ConfigDict:
    """The recipe; `choice` is `default` or `tiny`, and may add `,ablations`."""
    words = set(choice.split(",")) - {"default"}
    if words - {"tiny", "ablations"}:
        raise ValueError(f"{choice!r}; expected 'default' or 'tiny', or with ',ablations'")
    tiny, ablations = "tiny" in words, "ablations" in words
    made = "runs/synthesize_emoji_tiny" if tiny else "runs/synthesize_emoji"
    steps = 2 if tiny else 24
    config = ConfigDict()
    config.name = "_".join(["posttrain_emoji", *sorted(words, reverse=True)])
    config.task = "instruct"
    config.seeds = (0, 1, 2) if ablations and not tiny else (0,)
    config.languages = ("en", "en")
    # What plain text loses is measured once: it takes as long as the answers.
    config.evals = ("held_out",) if ablations or tiny else ("held_out", "text")
    config.encoders = dict(
        image=dict(source="asset:dinov2-small", image_size=112),
        language=dict(source="asset:smollm2-135m-instruct", max_length=192, dtype="float32"),
    )
    config.questions = dict(
        source=f"records:{made}/composed.jsonl",
        asked=f"records:{made}/data/questions.jsonl",
        asked_limit=8 if tiny else 160,
        val_pictures=2 if tiny else 5,
        test_pictures=1,
        per_picture=1,
        max_new_tokens=4 if tiny else 40,
        rehearsal=0,
    )
    config.instruct = dict(
        adapter="routed",
        visual=False,
        rank=8,
        dropout=0.0,
        taps=4,
        tap_layers="last",
        norm_taps=True,
        hidden=128,
        start="general",
    )
    config.optim = dict(lr=1e-3, schedule="cosine", warmup_steps=1 if tiny else 4, clip_norm=1.0)
    config.train = dict(
        steps=steps,
        batch_size=4 if tiny else 8,
        accumulate=1,
        eval_every=steps,
        save_every=steps if tiny else 40,
        log_every=1 if tiny else 8,
        select="none",
        cache_features=not tiny,  # two steps see few of all pictures
    )
    learned = steps if tiny else 160
    general = dict(
        questions=dict(source=f"records:{made}/stages/general.jsonl"),
        instruct=dict(start=""),
        train=dict(steps=learned, eval_every=learned),
    )
    config.variants = dict(general=general)
    for name in ABLATIONS if ablations else ():
        data, start = name, "general"
        if name == "two_stage":  # two steps of tuning write no tasks
            data, start = "captions" if tiny else "tasks", "captions_first"
        variant: dict[str, Any] = dict(
            questions=dict(source=f"records:{made}/stages/{data}.jsonl"),
            instruct=dict(start=start),
        )
        if name == "two_stage":  # half of the steps each
            half = dict(steps=steps // 2, eval_every=steps // 2)
            first: dict[str, Any] = dict(
                questions=dict(source=f"records:{made}/stages/captions.jsonl")
            )
            config.variants["captions_first"] = {**first, "train": half}
            variant["train"] = half
        config.variants[name] = variant
    return config
