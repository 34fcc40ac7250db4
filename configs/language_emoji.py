"""Language adaptation: Chinese for a dual encoder that only knows English.

  python -m mmjax.main --config configs/language_emoji.py
  python -m mmjax.main --config configs/language_emoji.py:german      # or :japanese: not tuned for

A frozen multilingual BERT (mE5-small) reads Chinese; linear, one transformer layer, linear map its
tokens (after half, five sixths and all of the layers) into the frozen English text space of
`base_emoji`, distilled on parallel text alone. Needs the assets minilm-l6, me5-small, dinov2-small,
openmoji and cedict (fetched on first use).

Measured (3 seeds, 329 held-out emoji): Chinese name to picture R@1/5/10 .139/.372/.502, mR
.337 +- .008 (linear map .318, floor .054, ceiling .374: recovery 88.7 %); picture to name mR
.355 +- .013 (linear map .328, floor .059, ceiling .369: recovery 95.4 %); commit 888dce5.
`:german` and `:japanese` are the same recipe for languages that no setting was chosen on: names of
emoji alone (Unicode CLDR's, asset `emoji-names`), no dictionary, and a development pool that no
seed tests. German: name to picture R@1/5/10 .120/.308/.425, mR .284 +- .011 (linear map .260, floor
.066, ceiling .379: recovery 69.7 % +- 1.7); picture to name mR .302 +- .023 (linear map .275, floor
.090, ceiling .374: recovery 74.9 %). Japanese: mR .303 +- .012 and .316 +- .004 (linear map
.269, .270): recovery 77.1 % and 81.7 %. Commit 1f7444e.
Photographs with captions in both languages (asset `tuxpaint-stamps`), of a finished run:
  python -m mmjax.main --mode evaluate --workdir DIR --config.benchmarks.retrieval='("stamps",)'
305 of them, 3 seeds: mR .118 +- .004 (base in English .109, in Chinese .031), picture to text .115
+- .002 (.099, .030): recovery 112 % and 123 % of a low ceiling; commit 4b3c9a1.
Earlier, with --config.pairs.keep_families=False: .217/.485/.608 (ceiling .271/.518/.633), recovery
91.0 %.
"""

from typing import Any

from ml_collections import ConfigDict

from configs.base_emoji import get_config as get_base

HELD_OUT = dict(german="de", japanese="ja")  # languages that nobody tuned for


def get_config(size: str = "full") -> ConfigDict:
    """The recipe; `size` is `full`, or some of `tiny`, `ablations` and a language, with commas."""
    words = set(size.split(",")) - {"full"}
    others = sorted(words & set(HELD_OUT))
    if len(others) > 1 or words - {"tiny", "ablations", *HELD_OUT}:
        raise ValueError(
            f"size {size!r}; expected 'full', 'tiny', 'ablations', 'german' or 'japanese'"
        )
    tiny = "tiny" in words
    base: Any = get_base("tiny" if tiny else "full")
    config = ConfigDict()
    config.name = "_".join(["language_emoji", *sorted(words)])
    config.task = "language"
    config.seeds = base.seeds
    config.languages = base.languages  # (added, known)
    if others:
        config.languages = base.languages = (HELD_OUT[others[0]], "en")
    config.evals = base.evals
    config.base = base  # trained first; the path of a finished base run may stand here instead
    config.encoders = dict(
        **base.encoders,
        foreign=dict(source="asset:me5-small", output="tokens_deep", max_length=12),
    )
    config.pairs = base.pairs  # one object: what is set here holds for the base too
    # Half dictionary, half emoji words; then emoji words alone.
    config.parallel = dict(
        sources=("captions",) if others else ("captions", "cedict"),
        limit=200 if tiny else 6000,
        repeat_captions=3,
        captions_from=1.0 if others else 0.6,
    )
    if others:
        config.pairs.development = 0.2
    config.adapter = dict(
        kind="transformer",
        width=128,
        num_layers=1,
        num_heads=2,
        mlp_ratio=2,
        dropout=0.2,
        input_dropout=0.5,
        skip=True,
        skip_hidden=512,
        members=2,
        space="joint",
    )
    config.loss = dict(kind="distill_mse")
    config.optim = dict(
        name="adamw", lr=2e-3, weight_decay=0.01, b2=0.98, warmup_steps=30, clip_norm=0.0
    )
    config.train = dict(
        steps=20 if tiny else 500,
        batch_size=64 if tiny else 256,
        eval_every=10 if tiny else 100,
        patience=0,
        save_every=10 if tiny else 100,
        log_every=5 if tiny else 20,
        select="cosine_to_base",
        cache_features=True,
    )
    # The same encoder, text and steps without the transformer: is it worth it?
    variants: Any = dict(linear=dict(adapter=dict(kind="linear", members=1, input_dropout=0.0)))
    if "ablations" in words:
        variants["mlp"] = dict(adapter=dict(kind="mlp"))
    config.variants = variants
    config.benchmarks = dict(retrieval=(), limit=0)  # such as ("stamps",)
    config.mesh = dict(data=-1, model=1)
    config.checkpoint = dict(allow_other_encoder=False)
    config.writer = dict(tensorboard=False)
    return config
