"""Tasks about emoji of nature and food, written by SmolLM2 with DINOv2 from their captions.

  python -m mmjax.synthesize --config configs/synthesize_emoji.py
  python -m mmjax.synthesize --config configs/synthesize_emoji.py:tiny

Routed adapters in both frozen models learn to write tasks from other emoji and easy-VQA's shapes;
then they write about 198 captions. SmolLM2 itself, without adapters, judges whether both answers of
a task agree: 198 of 198 texts are whole tasks, 81.8 % of them right, of the best 30 % by its margin
72.9 %: so small a judge does not help. `configs/posttrain_emoji.py` trains on what is kept. Needs
the assets smollm2-135m-instruct, dinov2-small, openmoji and easy_vqa (fetched on first use).
"""

from ml_collections import ConfigDict


def get_config(size: str = "default") -> ConfigDict:
    """The recipe; `size` is `default` or `tiny`."""
    if size not in ("default", "tiny"):
        raise ValueError(f"{size!r}; expected 'default' or 'tiny'")
    tiny = size == "tiny"
    config = ConfigDict()
    config.name = "synthesize_emoji" if not tiny else "synthesize_emoji_tiny"
    config.seed = 0
    config.pairs = "emoji"
    config.images = ""
    config.limit = 6 if tiny else 0
    config.seeds = ""
    config.wordings = "en"
    config.markers = "plain"
    config.synthesizer = ""
    config.requests = dict(model="", base_url="", key_variable="", sees=False, max_tokens=512)
    config.tune = tuning(tiny)
    config.generate = dict(
        batch_size=4 if tiny else 32,
        max_new_tokens=16 if tiny else 96,
        triplets=1,
        tries=2,
        blank_share=0.1,
    )
    config.filter = dict(
        judge="asset:smollm2-135m-instruct",
        dtype="float32",
        batch_size=32,
        examples="",
        threshold=0.0,
        keep_rate=0.3,  # the paper's share: this judge calls no task consistent
        near_duplicates="none",
        similarity=0.8,
    )
    config.compose = dict(
        answer="fused",
        caption="random",
        inversion_rate=0.0,
        most_tasks=1,  # as many as the synthesizer writes: a rule makes four of each picture
        stages=("captions", "unfiltered", "general", "general_captions", "rules")
        + (() if tiny else ("tasks",)),  # two steps of tuning write none
    )
    return config


def tuning(tiny: bool) -> dict[str, object]:
    """The `instruct` recipe that makes the synthesizer; its questions are filled in."""
    return dict(
        name="synthesizer",
        task="instruct",
        seeds=(0,),
        languages=("en", "en"),
        evals=("held_out",),
        encoders=dict(
            image=dict(source="asset:dinov2-small", image_size=112),
            language=dict(source="asset:smollm2-135m-instruct", max_length=192, dtype="float32"),
        ),
        questions=dict(
            source="records:", val_pictures=2 if tiny else 16, test_pictures=2, per_picture=1
        ),
        instruct=dict(
            adapter="routed",
            visual=False,
            rank=8,
            dropout=0.0,
            taps=4,
            tap_layers="last",
            norm_taps=True,
            hidden=128,
        ),
        optim=dict(lr=1e-3, schedule="cosine", warmup_steps=1 if tiny else 20, clip_norm=1.0),
        train=dict(
            steps=2 if tiny else 120,
            batch_size=4 if tiny else 8,
            accumulate=1,
            eval_every=2 if tiny else 120,
            save_every=2 if tiny else 60,
            log_every=1 if tiny else 10,
            select="none",
            cache_features=False,
        ),
    )
