"""The whole chain: base, Chinese, a domain, few-shot classes of it in Chinese prompts.

  python -m mmjax.main --config configs/chain_emoji.py                    # food and drink
  python -m mmjax.main --config configs/chain_emoji.py:animals            # animals and plants
  python -m mmjax.main --config configs/chain_emoji.py:without_domain     # or without_language,
                                                                          # without_prompts

Four stages, each on the frozen adapter below it. `base_emoji` joins English names and pictures
without the domain; `language_emoji` adds Chinese; `domain_emoji`'s residual adapters learn the
domain from its Chinese pairs; structured prompts through mE5 learn its subgroups (水果, 蔬菜, ...)
from 1, 2 and 4 pictures each, beside the factorised form, CoOp and a linear probe. What a link
stands on is trained without the domain or on its training items alone, and all links are asked
about the same test items. The report's first table has every link as a row, the second what each
adds and forgets. A finished run may stand in for whatever is below: --config.base.base=FOLDER.

Three tenths of the families are the development pool (`pairs.development`): no seed tests them,
every seed validates on them. Settings of the prompts are chosen on them alone, with as many tries
for every method (`SEARCH`), on as many shots as 46 pictures of food give, and in batches that the
pool's training items fill:

  python -m tools.choose --config configs/chain_emoji.py --workdir runs/choose
    --set fewshot.shots=2 fewshot.min_families=3 base.base.base.train.batch_size=256
    base.train.batch_size=24

Needs the assets minilm-l6, me5-small, dinov2-small, openmoji and cedict (fetched on first use).
Settings are those of the four recipes that it is made of; none was searched for. Measured (food, 3
seeds, 41 minutes of one busy core, commit e5a604b): mR on food in Chinese .124 (base) -> .229
(language) -> .278 (domain), on the rest .062 -> .377 -> .345; accuracy on six classes of food .225
-> .261 -> .333 -> .369 +- .154 (structured prompts, 4 shots; CoOp .378, linear probe .306).
"""

from typing import Any

from ml_collections import ConfigDict

from configs.base_emoji import get_config as get_base
from configs.language_emoji import get_config as get_language

DOMAINS = dict(
    food=(
        *("food-fruit", "food-vegetable", "food-prepared", "food-asian", "food-sweet"),
        *("drink", "dishware"),
    ),
    animals=(
        *("animal-mammal", "animal-bird", "animal-amphibian", "animal-reptile", "animal-marine"),
        *("animal-bug", "plant-flower", "plant-other"),
    ),
)
LINKS = ("language", "domain", "prompts")  # each may be left out
SHOTS = (1, 2, 4)
CHINESE = dict(
    templates=("{}", "{}的图片", "一种{}", "{}的符号", "属于{}的东西", "这是{}"),
    context="一张图片",
    general=3,
)
ENGLISH = dict(
    templates=("{}", "a picture of {}", "a kind of {}", "{} symbol", "things: {}", "this is {}"),
    context="a picture of",
    general=3,
)
METHODS: dict[str, Any] = dict(
    structured={},
    factorised=dict(prompts=dict(method="factorised", anchor=0.0)),
    coop=dict(prompts=dict(method="coop", context="", anchor=0.0)),
    linear_probe=dict(prompts=dict(method="linear_probe"), optim=dict(lr=1e-2, weight_decay=0.1)),
)
# What `tools.choose` tries of each method: the same number of draws from each space.
_RATES = dict(log=(3e-4, 3e-2))
SEARCH: dict[str, Any] = dict(
    structured={
        "optim.lr": _RATES,
        "prompts.anchor": (0.0, 0.3, 1.0, 3.0),
        "prompts.instance": (0, 1, 2, 4),
        "train.steps": (50, 100, 200),
    },
    factorised={
        "optim.lr": _RATES,
        "prompts.alpha": (0.3, 1.0, 3.0),
        "prompts.instance": (0, 1, 2, 4),
        "train.steps": (50, 100, 200),
    },
    coop={
        "optim.lr": _RATES,
        "prompts.anchor": (0.0, 1.0, 8.0),
        "train.steps": (50, 100, 200),
    },
    linear_probe={
        "optim.lr": _RATES,
        "optim.weight_decay": (0.0, 0.01, 0.1, 1.0),
        "train.steps": (50, 100, 200),
    },
)


def get_config(choice: str = "food") -> ConfigDict:
    """The recipe; `choice` is a domain, `tiny`, `without_LINK`, or several of them with commas."""
    words = set(choice.split(","))
    tiny, chosen = "tiny" in words, sorted(words & set(DOMAINS)) or ["food"]
    left_out = {link for link in LINKS if f"without_{link}" in words}
    unknown = words - {"tiny", *DOMAINS, *(f"without_{link}" for link in LINKS)}
    if unknown or len(chosen) > 1 or left_out == set(LINKS):
        raise ValueError(
            f"{choice!r}; expected one of {sorted(DOMAINS)}, 'tiny', 'without_language', "
            "'without_domain' or 'without_prompts', or several with commas"
        )
    links = [link for link in LINKS if link not in left_out]
    language: Any = get_language("tiny" if tiny else "full")
    base: Any = get_base("tiny" if tiny else "full")
    pairs = base.pairs  # one object: what is set here holds for every link
    pairs.label = "subgroup"
    pairs.exclude_labels = (
        *("flag", "country-flag", "subdivision-flag"),
        *("skin-tone", "hair-style"),
    )
    pairs.stratify = True
    pairs.limit = 400 if tiny else 0
    pairs.development = 0.3
    pairs.pool = "all"
    pairs.domain = dict(
        labels=DOMAINS[chosen[0]], fraction=1.0, test_fraction=0.3, val_fraction=0.15
    )
    encoders = base.encoders
    if "language" in links:
        encoders = language.encoders
        encoders.foreign.max_length = 24  # names with prompts around them
    parts: dict[str, Any] = dict(
        language=_language(language),
        domain=_domain(tiny),
        prompts=_prompts(tiny, "language" in links),
    )
    below: Any = base
    for link in links:
        config = parts[link]
        config.task, config.pairs, config.encoders = link, pairs, encoders
        config.base = below  # trained first; the path of a finished run may stand here instead
        below = config
    config = below
    config.name = "_".join(["chain_emoji", *sorted(words - {"food"})])
    config.seeds = base.seeds
    config.languages = ("zh", "en")  # (added, known)
    config.evals = ("fewshot",) if links[-1] == "prompts" else ("retrieval",)
    config.mesh = dict(data=-1, model=1)
    config.checkpoint = dict(allow_other_encoder=False)
    config.writer = dict(tensorboard=False)
    return config


def _language(language: Any) -> ConfigDict:
    """`language_emoji`'s own settings."""
    names = ("parallel", "adapter", "loss", "optim", "train")
    return ConfigDict({name: language[name] for name in names})


def _domain(tiny: bool) -> ConfigDict:
    """`domain_emoji`'s, on all of the domain's pairs."""
    return ConfigDict(
        dict(
            residual=dict(
                tune="adapter", towers=("image", "text"), bottleneck=128, ratio=0.2, dropout=0.2
            ),
            weighting=dict(pairs="focal", gamma=2.0, temperature=1.0, beta=0.0, tau_plus=0.0),
            continual=dict(kind="none", weight=1.0),
            loss=dict(kind="contrastive", learn_temperature=False),
            optim=dict(name="adamw", lr=1e-3, weight_decay=0.01, warmup_steps=5, clip_norm=1.0),
            train=dict(
                steps=4 if tiny else 60,
                batch_size=4 if tiny else 48,
                eval_every=2 if tiny else 20,
                save_every=2 if tiny else 20,
                keep=1,
                log_every=2 if tiny else 10,
                cache_features=True,
            ),
        )
    )


def _prompts(tiny: bool, chinese: bool) -> ConfigDict:
    """Structured prompts of the domain's subgroups, and what they are compared with."""
    shots = (1, 2) if tiny else SHOTS
    config: Any = ConfigDict()
    config.prompts = dict(
        CHINESE if chinese else ENGLISH,
        method="structured",
        template="{}",
        ending="",
        domain=True,
        instance=2,
        anchor=1.0,
        chunk=80,
        attention=64,
        alpha=1.0,
    )
    config.fewshot = dict(
        shots=shots[-1], min_families=3 if tiny else 8, half="all", styles=(), domain=True
    )
    config.loss = dict(kind="contrastive", label_smoothing=0.0)
    config.optim = dict(name="adamw", lr=2e-3, weight_decay=0.0, warmup_steps=5, clip_norm=1.0)
    config.train = dict(
        steps=2 if tiny else 100,
        batch_size=4,
        eval_every=1000,
        save_every=1000,
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
