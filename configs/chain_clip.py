"""The whole chain on CLIP: Chinese, your own domain, few-shot classes of it in Chinese prompts.

  python -m mmjax.main --config configs/chain_clip.py
  python -m mmjax.main --config configs/chain_clip.py:without_domain    # or without_prompts

Both towers of CLIP ViT-L/14 stay as their checkpoint has them. A frozen Chinese RoBERTa and a small
adapter take the place of its text tower, distilled on parallel text; residual adapters on both
sides learn your pictures with their Chinese captions, hard pairs first; structured prompts through
the RoBERTa then learn your classes from 1, 2, 4, 8 and 16 pictures each. Every stage stands on the
frozen adapter below it; the report's first tables say what each adds and forgets.

You bring
  data/parallel_zh_en.jsonl   {"source": "一只猫", "target": "a cat"}, one pair a line
  data/products.jsonl         {"image": "1.jpg", "zh": "红色口红", "en": "a red lipstick",
                              "label": {"en": "lipstick", "zh": "口红"}}, one picture a line;
                              near-duplicates share a "family"
and CLIP and the RoBERTa come from the Hugging Face hub. A fifth of the families is the development
pool: no seed tests them, and settings may be chosen on them (`tools.choose`).

Measured: not yet; `:tiny` runs in the tests on random checkpoints.
"""

from typing import Any

from ml_collections import ConfigDict, FieldReference

from configs.language_clip_coco_cn import get_config as get_language

LINKS = ("domain", "prompts")  # each may be left out
SHOTS = (1, 2, 4, 8, 16)
METHODS: dict[str, Any] = dict(
    structured={},
    factorised=dict(prompts=dict(method="factorised")),
    linear_probe=dict(prompts=dict(method="linear_probe")),
)


def get_config(choice: str = "full") -> ConfigDict:
    """The recipe; `choice` is `full`, or some of `tiny` and `without_LINK`, with commas."""
    words = set(choice.split(",")) - {"full"}
    links = [link for link in LINKS if f"without_{link}" not in words]
    if words - {"tiny", *(f"without_{link}" for link in LINKS)}:
        raise ValueError(
            f"{choice!r}; expected 'full', 'tiny', 'without_domain', 'without_prompts'"
        )
    tiny = "tiny" in words
    language: Any = get_language("tiny" if tiny else "full")
    # One reference each: --config.pairs.source and --config.encoders.text.source set all links.
    source = FieldReference("data/products.jsonl")
    pairs: Any = ConfigDict(
        dict(
            source=source,
            styles=("photo",),
            test_fraction=0.2,
            val_fraction=0.1,
            stratify=True,
            development=0.2,
            pool="all",
        )
    )
    base: Any = ConfigDict(dict(task="pretrained", encoders=language.base.encoders, pairs=pairs))
    encoders = language.encoders
    parts = dict(language=_language(language), domain=_domain(tiny), prompts=_prompts(tiny))
    below: Any = base
    for link in ("language", *links):
        config: Any = parts[link]
        config.task, config.pairs, config.encoders, config.base = link, pairs, encoders, below
        below = config
    config = below
    config.name = "_".join(["chain_clip", *sorted(words)])
    config.seeds = (0,) if tiny else (0, 1, 2)
    config.languages = ("zh", "en")  # (added, known)
    config.evals = ("fewshot",) if "prompts" in links else ("retrieval",)
    config.mesh = dict(data=-1, model=1)
    config.checkpoint = dict(allow_other_encoder=False)
    config.writer = dict(tensorboard=False)
    return config


def _language(language: Any) -> ConfigDict:
    """`language_clip_coco_cn`'s own settings."""
    names = ("parallel", "adapter", "loss", "optim", "train")
    return ConfigDict({name: language[name] for name in names})


def _domain(tiny: bool) -> ConfigDict:
    """Residual adapters with focal weights."""
    return ConfigDict(
        dict(
            residual=dict(bottleneck=8 if tiny else 256, ratio=0.2, dropout=0.2),
            weighting=dict(pairs="focal", gamma=2.0),
            loss=dict(kind="contrastive", learn_temperature=False),
            optim=dict(name="adamw", lr=1e-3, weight_decay=0.01, warmup_steps=2, clip_norm=1.0),
            train=dict(
                steps=4 if tiny else 500,
                batch_size=4 if tiny else 256,
                eval_every=2 if tiny else 50,
                save_every=2 if tiny else 100,
                keep=1,
                log_every=2 if tiny else 10,
                cache_features=True,
            ),
        )
    )


def _prompts(tiny: bool) -> ConfigDict:
    """Structured prompts, and what they are compared with."""
    shots = (2,) if tiny else SHOTS
    config: Any = ConfigDict()
    config.prompts = dict(
        method="structured",
        template="{}" if tiny else "一张{}的照片",
        templates=("{}",) if tiny else ("{}", "一张{}的照片", "这是{}", "一幅{}的图片"),
        context="",
        ending="",
        general=2 if tiny else 4,
        domain=True,
        instance=2,
        anchor=1.0,
        chunk=0 if tiny else 64,
        attention=64,
    )
    config.fewshot = dict(shots=shots[-1], min_families=4 if tiny else 22)
    config.loss = dict(kind="contrastive", label_smoothing=0.0)
    config.optim = dict(name="adamw", lr=2e-3, weight_decay=0.0, warmup_steps=5, clip_norm=1.0)
    config.train = dict(
        steps=2 if tiny else 1000,
        batch_size=4 if tiny else 16,
        eval_every=100000,
        save_every=200,
        keep=1,
        log_every=2 if tiny else 20,
        select="none",
        cache_features=True,
    )
    config.variants = {
        f"{name}_{count}": dict(changes, fewshot=dict(shots=count))
        for name, changes in METHODS.items()
        for count in shots
        if (name, count) != ("structured", shots[-1])
    }
    return config
