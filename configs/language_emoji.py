"""Language adaptation: Chinese for a dual encoder that only knows English.

  python -m mmjax.main --config configs/language_emoji.py

A frozen multilingual BERT (mE5-small) reads Chinese; linear, one transformer layer, linear map its
tokens into the frozen English text space of `base_emoji`, distilled on parallel text alone. Needs
the assets minilm-l6, me5-small, dinov2-small, openmoji and cedict (fetched on first use).
"""

from ml_collections import ConfigDict

from configs.base_emoji import get_config as get_base


def get_config(size: str = "full") -> ConfigDict:
    """The recipe; `size` is `full`, or `tiny` for a try in seconds."""
    tiny = size == "tiny"
    base = get_base(size)
    config = ConfigDict()
    config.name = f"language_emoji{'_tiny' if tiny else ''}"
    config.task = "language"
    config.seeds = base.seeds
    config.languages = base.languages  # (added, known)
    config.evals = base.evals
    config.base = base  # trained first; or the folder of a finished base run
    config.encoders = dict(
        **base.encoders,
        foreign=dict(source="asset:me5-small", output="tokens"),
    )
    config.pairs = base.pairs  # one object: what is set here holds for the base too
    config.parallel = dict(
        sources=("captions", "cedict"), limit=200 if tiny else 10000, repeat_captions=1
    )
    config.adapter = dict(
        kind="transformer", width=384, num_layers=1, num_heads=6, dropout=0.1, space="joint"
    )
    config.loss = dict(kind="distill_mse")
    config.optim = dict(name="adamw", lr=1e-3, weight_decay=0.05, warmup_steps=50)
    config.train = dict(
        steps=20 if tiny else 800,
        batch_size=64 if tiny else 512,
        eval_every=10 if tiny else 100,
        patience=0,
        save_every=10 if tiny else 200,
        log_every=5 if tiny else 20,
        select="t2t_mR",
    )
    # The same encoder and text with a linear map instead: is the transformer worth it?
    config.variants = dict(linear=dict(adapter=dict(kind="linear")))
    config.mesh = dict(data=-1, model=1)
    config.checkpoint = dict(allow_other_encoder=False)
    config.writer = dict(tensorboard=False)
    return config
