"""LaVIN-7B on ScienceQA: LLaMA-7B reads problems about pictures that CLIP ViT-L/14 sees.

  python -m mmjax.main --config configs/lavin_scienceqa_7b.py \
      --config.encoders.language.source=/data/llama-7b \
      --config.questions.source=scienceqa:/data/scienceqa

Not measured: bring the data and the weights. LLaMA-1 7B is Meta's, on request: a folder in Hugging
Face's layout, or Meta's own (params.json beside consolidated.00.pth and tokenizer.model). CLIP is
`hf:openai/clip-vit-large-patch14`, or a local folder. ScienceQA (Lu et al. 2022,
scienceqa.github.io) is a folder with problems.json, pid_splits.json and
images/SPLIT/ID/image.png.

The paper's recipe (arXiv 2305.15023 and its code): routed adapters of rank 8 in both towers,
temperature 10, six class tokens, 20 epochs of 12,726 problems in batches of 32 (7,980 steps), peak
learning rate 9e-3 x 32 / 256 = 1.125e-3, two epochs of warm-up, weight decay 0.02, texts of at most
512 tokens, the last step evaluated. It differs where the original does what it should not: pictures
route on themselves, answers are greedy, one that names no option is wrong
(`--config.questions.unanswered=random` draws one), micro-batches weigh tokens; and in little:
batches are of one modality and of about one length.

`:tiny` trains two steps on whatever folders are given.
"""

from ml_collections import ConfigDict

EPOCH = 399  # steps: 6,218 problems with a picture and 6,508 without one, in batches of 32


def get_config(choice: str = "default") -> ConfigDict:
    """The recipe; `choice` is `default` or `tiny`."""
    if choice not in ("default", "tiny"):
        raise ValueError(f"{choice!r}; expected 'default' or 'tiny'")
    tiny = choice == "tiny"
    config = ConfigDict()
    config.name = "lavin_scienceqa_7b" + ("_tiny" if tiny else "")
    config.task = "instruct"
    config.seeds = (0,)
    config.languages = ("en", "en")
    config.evals = ("scienceqa",)
    config.encoders = dict(
        image=dict(
            source="hf:openai/clip-vit-large-patch14", dtype="bfloat16", pictures="imagenet_square"
        ),
        language=dict(source="llama-7b", dtype="bfloat16", max_length=512),
    )
    config.questions = dict(
        source="scienceqa:scienceqa",
        train_pictures=0,
        val_pictures=2 if tiny else 256,
        test_pictures=0,
        per_picture=1,
        captions=False,
        answering="greedy",
        max_new_tokens=16 if tiny else 64,
        unanswered="wrong",
        unanswered_seed=0,
    )
    config.instruct = dict(
        adapter="routed",
        visual=True,
        rank=8,
        scale=1.0,
        temperature=10.0,
        dropout=0.1,
        taps=2 if tiny else 6,
        hidden=128,
        clip_routing="per_image",
        router_weight_dtype="float32",
        remat=not tiny,
        feed_forward="none",  # "vision": the original's router_block; "language": its block
    )
    config.optim = dict(
        name="adamw",
        lr=1.125e-3,
        weight_decay=0.02,
        decay="matrices",  # of the modality embedding too, as the original does
        b1=0.9,
        b2=0.95,
        schedule="cosine",
        warmup_steps=1 if tiny else 2 * EPOCH,
        clip_norm=0.0,
    )
    config.train = dict(
        steps=2 if tiny else 20 * EPOCH,
        batch_size=2 if tiny else 32,
        accumulate=1 if tiny else 4,
        eval_every=2 if tiny else 5 * EPOCH,
        save_every=2 if tiny else EPOCH,
        keep=1,
        log_every=1 if tiny else 20,
        select="none",
        cache_features=False,
    )
    config.mesh = dict(data=-1, model=1)
    config.checkpoint = dict(allow_other_encoder=False)
    config.writer = dict(tensorboard=False)
    return config
