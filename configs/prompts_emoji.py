"""Few-shot classification of emoji into their subgroups: structured prompts and ten other methods.

  python -m mmjax.main --config configs/prompts_emoji.py
  python -m mmjax.main --config configs/prompts_emoji.py:noto         # also asks in Noto's style
  python -m mmjax.main --config configs/prompts_emoji.py:exact        # the costly ones, see below

The base of `base_emoji`, trained on names alone, is frozen. Every method learns the subgroups
(`animal bird`, `sky weather`, ...) from 1, 2, 4, 8 and 16 pictures each, and is asked about emoji
that neither it nor the base has seen. Needs the assets minilm-l6, dinov2-small and openmoji
(fetched on first use); `:noto` and `:apple` a system font. A seed takes about 7 minutes of one busy
core, once features are cached.

`:exact` runs the form with one text pass for every picture and class, and CoCoOp, half a second a
step of 4 pictures; its ablations have 16 shots only. Figures are in docs/results.md. All
settings are the same for all shots. Those of the linear probe, TaskRes, CLAP, CoOp, the factorised
prompts and Tip-Adapter's alpha and beta were partly chosen on the validation items of seed 0; the
others are as their papers or defaults have it. Every seed has a split of its own, so that some of
those items are tested with seeds 1 and 2.

The methods are not trained alike: on 2,000 pictures those over cached embeddings, on 800 CoOp and
KgCoOp, on 400 the exact form and CoCoOp, which has the structured prompts' anchor too. Prompts
end in no full stop. `prompts_coop` has equal training and the papers' settings.
"""

from typing import Any

from ml_collections import ConfigDict

from configs.base_emoji import get_config as get_base

SHOTS = (1, 2, 4, 8, 16)
STYLES = ("noto", "apple")
TEMPLATES = ("{}", "a picture of {}", "emoji of {}", "a kind of {}", "{} symbol", "things: {}")
TIP = dict(alpha=30.0, beta=5.0)
# One line a method; the same numbers for all shots.
CACHED = dict(
    linear_probe=dict(optim=dict(lr=1e-2, weight_decay=0.1)),
    tip_adapter=dict(prompts=TIP, train=dict(steps=0)),
    tip_adapter_f=dict(prompts=dict(TIP, method="tip_adapter"), optim=dict(lr=1e-3)),
    clip_adapter=dict(),
    task_residual=dict(),
    clap=dict(prompts=dict(anchor=1.0)),
)
PARTS = dict(without_g=dict(general=0), without_d=dict(domain=False), without_i=dict(instance=0))
FACTORISED = {
    f"factorised_{part}": dict(prompts=dict(method="factorised", **off))
    for part, off in PARTS.items()
}
LEARNT = dict(train=dict(steps=40))
TOWER = dict(
    coop=dict(LEARNT, prompts=dict(context="")),
    kgcoop=dict(LEARNT, prompts=dict(context="", anchor=8.0)),
)
SLOW = dict(train=dict(steps=100, batch_size=4))
EXACT = dict(
    cocoop=dict(SLOW, prompts=dict()),
    structured=dict(SLOW, prompts=dict(anchor=1.0)),
)
EXACT_PARTS = {  # from all shots only
    f"structured_{part}": dict(SLOW, prompts=dict(method="structured", anchor=1.0, **off))
    for part, off in {**PARTS, "without_g": dict(general=0, context="")}.items()
}
NEW = ("factorised", "coop", "kgcoop", "clip_adapter", "cocoop", "structured")


def variant(name: str, changes: dict[str, Any], shots: int, half: str = "all") -> dict[str, Any]:
    """A method with so many shots."""
    prompts = {"method": name, **changes.get("prompts", {})}
    return {**changes, "prompts": prompts, "fewshot": {"shots": shots, "half": half}}


def get_config(choice: str = "full") -> ConfigDict:
    """The recipe; `choice` is `full`, `tiny`, or some of `noto`, `apple`, `exact`, with commas."""
    words = set(choice.split(",")) - {"full"}
    unknown = words - {"tiny", "exact", *STYLES}
    if unknown:
        raise ValueError(f"{choice!r}; expected 'full', 'tiny', 'noto', 'apple' or 'exact'")
    tiny, exact = "tiny" in words, "exact" in words
    base: Any = get_base("tiny" if tiny else "full")
    config = ConfigDict()
    config.name = "_".join(["prompts_emoji", *sorted(words)])
    config.task = "prompts"
    config.seeds = base.seeds
    config.languages = base.languages = ("en", "en")
    config.evals = ("fewshot",)
    config.base = base  # trained first, on names; the path of a finished base run may stand here
    config.encoders = base.encoders
    config.pairs = base.pairs  # one object: what is set here holds for the base too
    config.pairs.label = "subgroup"
    config.pairs.exclude_labels = (
        *("flag", "country-flag", "subdivision-flag"),
        *("skin-tone", "hair-style"),
    )
    config.pairs.stratify = True
    config.pairs.limit = 400 if tiny else 0
    config.prompts = dict(
        method="structured" if exact else "factorised",
        template="{}",
        templates=TEMPLATES,
        context="a picture of",
        ending="",
        general=3,
        domain=True,
        instance=2,
        anchor=1.0 if exact else 0.0,
        chunk=80,
        attention=64,
        alpha=1.0,
        beta=5.0,
        ratio=0.2,
        bottleneck=64,
    )
    most = 2 if tiny else SHOTS[-1]
    config.fewshot = dict(
        shots=most,
        min_families=4 if tiny else 22,
        half="all",
        styles=tuple(style for style in STYLES if style in words),
    )
    config.loss = dict(kind="contrastive", label_smoothing=0.0)
    config.optim = dict(name="adamw", lr=2e-3, weight_decay=0.0, warmup_steps=5, clip_norm=1.0)
    config.train = dict(
        steps=100,
        batch_size=20,
        eval_every=1000,
        patience=0,
        save_every=1000,
        keep=1,
        log_every=20,
        select="none",
        cache_features=True,
    )
    if exact:  # the recipe itself is one of these
        config.train = dict(config.train, **SLOW["train"])
    methods = EXACT if exact else {**CACHED, **TOWER, "factorised": {}, **FACTORISED}
    main = "structured" if exact else "factorised"
    config.variants = {}
    for name, changes in methods.items():
        for shots in (1, 2) if tiny else SHOTS:
            if (name, shots) != (main, most):
                config.variants[f"{name}_{shots}"] = variant(name, changes, shots)
        if name in NEW:
            config.variants[f"{name}_base_to_new"] = variant(name, changes, most, "base")
    for name, changes in EXACT_PARTS.items() if exact else ():
        config.variants[f"{name}_{most}"] = variant(name, changes, most)
    if tiny:
        config.train = dict(config.train, steps=2, batch_size=4, log_every=2)
        for changes in config.variants.values():
            if changes.get("train", {}).get("steps"):
                changes["train"] = dict(steps=2, batch_size=4)
    config.mesh = dict(data=-1, model=1)
    config.checkpoint = dict(allow_other_encoder=False)
    config.writer = dict(tensorboard=False)
    return config
