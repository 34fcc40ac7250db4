"""Adapters side by side: kind by kind inside the frozen encoders of a dual encoder.

  python -m mmjax.main --config configs/adapters_emoji.py           # a domain, seven kinds
  python -m mmjax.main --config configs/adapters_emoji.py:all       # a domain, all fourteen kinds
  python -m mmjax.main --config configs/adapters_emoji.py:shares    # 10 % of the pairs, or all
  python -m mmjax.main --config configs/adapters_emoji.py:few       # sixteen pictures a class

The base of `base_emoji` has never seen food and drink. Each kind then learns that domain inside
both encoders (DINOv2-small, 12 layers; MiniLM-L6, 6), with about half a million parameters where
its sizes can be chosen: 497,664 for LoRA of rank 18 on queries and values, say; VeRA, IA3, SSF and
BitFit have as many as they have. `shares` asks the talk's question: few pairs with an adapter
against LoRA, one locked tower (LiT) and all weights with every pair. Beside the domain the rest is
asked, which the base knows: what is forgotten. `few` learns half of the subgroups from 16 pictures
each, by CoOp's context words alone and with each kind beside them, and asks about the other half
too, which nothing was learned of.

Measured (3 seeds; 39 held-out items of food and drink, 303 of the rest; mR; the base has .232 and
.385; `:all` is not):

  DoRA          .313 +- .028   .297        IA3        .258 +- .018   .374
  LoRA          .312 +- .020   .298        VPT        .236 +- .022   .104
  AdaptFormer   .286 +- .022   .292        prefixes   .217 +- .026   .373
  BitFit        .276 +- .014   .327

  `:shares`             7 pairs         72 pairs
  LoRA                  .208   .268     .312   .298
  AdaptFormer           .224   .243     .286   .292
  text and heads (LiT)                  .256   .379
  all weights, heads                    .323   .255

  `:few`, accuracy      classes learned  others
  the base              .578             .542
  CoOp                  .613 +- .008     .532 +- .045
  LoRA beside it        .696 +- .045     .551 +- .056
  AdaptFormer           .652 +- .008     .509 +- .114
  IA3                   .642 +- .022     .527 +- .074
  VPT                   .627 +- .056     .294 +- .088

Every kind has the same steps, batches and draws, and is asked after its last step. No rate was
searched: 1e-3 for what is added, 3e-4 for biases and scales of the model's own, 2e-5 for whole
weights. Nothing of an encoder with an adapter is read from the cache: it runs in every step. Needs
the assets minilm-l6, dinov2-small and openmoji (fetched on first use). `adapters_easyvqa` asks the
same of a language model.
"""

from typing import Any

from ml_collections import ConfigDict

from configs.base_emoji import get_config as get_base
from configs.prompts_emoji import get_config as get_prompts

PLACES = ("query", "value")
ALL = ("query", "key", "value", "out", "fc1", "fc2", "intermediate", "output")
# Sizes at which both encoders together have half a million parameters that are trained.
KINDS: dict[str, dict[str, Any]] = dict(
    lora=dict(kind="lora", rank=18, alpha=36.0, targets=PLACES),
    rslora=dict(kind="rslora", rank=18, alpha=18.0, targets=PLACES),
    dora=dict(kind="dora", rank=17, alpha=34.0, targets=PLACES),
    pissa=dict(kind="pissa", rank=18, alpha=18.0, targets=PLACES),
    vera=dict(kind="vera", rank=256, targets=PLACES),
    ia3=dict(kind="ia3"),
    ssf=dict(kind="ssf"),
    bitfit=dict(kind="bitfit"),
    layer_norm=dict(kind="layer_norm"),
    houlsby=dict(kind="houlsby", bottleneck=17),
    pfeiffer=dict(kind="pfeiffer", bottleneck=35),
    adaptformer=dict(kind="adaptformer", bottleneck=35),
    prefix=dict(kind="prefix_tuning", tokens=36),
    vpt=dict(kind="vpt", tokens=72, deep=True),
)
SOME = ("dora", "ia3", "bitfit", "adaptformer", "prefix", "vpt")
FEW = ("lora", "ia3", "adaptformer", "vpt")
RATES = dict(full=2e-5, lit=2e-5, bitfit=3e-4, layer_norm=3e-4)  # those of weights themselves
CHOICES = ("kinds", "all", "shares", "few", "tiny")


def _variant(name: str, percent: int = 100) -> dict[str, Any]:
    """A stage with one kind in both encoders; `lit` has the image encoder locked."""
    if name in ("full", "lit"):
        roles = ("text",) if name == "lit" else ("image", "text")
        own = {role: dict(kind="full") for role in roles}
        changes: dict[str, Any] = dict(adapters=own, residual=dict(tune="heads"))
    else:
        changes = dict(adapters={role: dict(KINDS[name]) for role in ("image", "text")})
    if name in RATES:
        changes["optim"] = dict(lr=RATES[name])
    if percent < 100:
        changes["pairs"] = dict(domain=dict(fraction=percent / 100))
        changes["train"] = dict(batch_size=6, accumulate=1)
    return changes


def _few(config: Any) -> ConfigDict:
    """`prompts_emoji` cut down to CoOp on half of the classes, and the kinds beside it."""
    config.name = "adapters_emoji_few"
    config.pairs.views = ("plain",)  # each further one goes through the encoders in every step
    config.prompts.update(method="coop", context="")
    config.fewshot.half = "base"
    config.train = dict(config.train, steps=40, log_every=10, save_every=20)
    config.variants = {}
    for name in FEW:
        changes = dict(adapters={role: dict(KINDS[name]) for role in ("image", "text")})
        config.variants[f"{name}_beside"] = dict(changes, optim=dict(lr=1e-3))
    return config


def get_config(choice: str = "kinds") -> ConfigDict:
    """The recipe; `choice` is `kinds`, `all`, `shares`, `few`, or `tiny` for a try in minutes."""
    if choice not in CHOICES:
        raise ValueError(f"{choice!r}; expected one of {', '.join(map(repr, CHOICES))}")
    if choice == "few":
        return _few(get_prompts())
    tiny = choice == "tiny"
    base: Any = get_base("tiny" if tiny else "full")
    config = ConfigDict()
    config.name = "adapters_emoji" + ("" if choice == "kinds" else f"_{choice}")
    config.task = "domain"
    config.seeds = base.seeds
    config.languages = base.languages
    config.evals = ("retrieval",)  # a domain is one class
    config.base = base  # trained first; the path of a finished base run may stand here instead
    config.encoders = base.encoders  # as config.pairs, one object: the base's are these too
    config.encoders.text.max_length = 32  # names are short; rows are padded to this in every step
    config.pairs = base.pairs
    config.pairs.views = ("plain",)  # each further one is encoded in every evaluation
    config.pairs.domain = dict(
        labels=("food-drink",), fraction=1.0, test_fraction=0.3, val_fraction=0.15
    )
    config.residual = dict(tune="none")
    config.adapters = {role: dict(KINDS["lora"]) for role in ("image", "text")}
    config.loss = dict(kind="contrastive", learn_temperature=False)
    config.optim = dict(name="adamw", lr=1e-3, weight_decay=0.01, warmup_steps=5, clip_norm=1.0)
    config.train = dict(
        steps=4 if tiny else 40,
        batch_size=4 if tiny else 16,
        accumulate=2 if tiny else 1,
        eval_every=1000,
        patience=0,
        save_every=2 if tiny else 20,
        keep=1,
        select="none",  # the last step: an evaluation runs the encoders over all pictures
        log_every=2 if tiny else 10,
        cache_features=True,  # of encoders without an adapter
    )
    config.variants = {}
    if choice == "shares":
        for name, percent in (("lora", 10), ("adaptformer", 10), ("lit", 100), ("full", 100)):
            config.variants[f"{name}_{percent}"] = _variant(name, percent)
    else:
        kinds = {"kinds": SOME, "all": KINDS, "tiny": ("bitfit", "vpt")}[choice]
        config.variants = {name: _variant(name) for name in kinds if name != "lora"}
    config.mesh = dict(data=-1, model=1)
    config.checkpoint = dict(allow_other_encoder=False)
    config.writer = dict(tensorboard=False)
    return config
