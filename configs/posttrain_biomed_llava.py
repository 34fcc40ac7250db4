"""AdaMLLM on biomedicine: LLaVA-NeXT-Llama3-8B learns captions and tasks made of them.

  python -m mmjax.main --config configs/posttrain_biomed_llava.py \
      --config.encoders.language.source=/data/open-llava-next-llama3-8b \
      --config.questions.source=records:/data/composed.jsonl \
      --config.questions.images=/data/pictures --config.mesh.model=8

Not measured: bring the data and the weights. The model is `hf:Lin-Chen/open-llava-next-llama3-8b`
in Hugging Face's layout, or any LLaVA-1.5 or LLaVA-NeXT with the markers of its own turns
(`--config.questions.markers=vicuna` for LLaVA-1.5). The records are what `mmjax.synthesize`
composed of captions such as PubMedVision's: a caption's turn and, where its tasks agreed, a task's.

The paper's recipe (arXiv 2411.19930, table 9): all weights, one epoch over some 500,000 records in
batches of 128, rows of at most 6,144 tokens, learning rate 2e-5 and in the image tower 2e-6,
cosine, 3 % of warm-up, no weight decay; 21 to 23 hours on 8 A100. To leave the tower as it is, say
`--config.instruct.visual=False --config.optim.rates='()'`. Masters and Adam's moments are float32:
12 bytes a weight, split over `mesh.model`.

  :two_stage  the paper's baseline: captions alone move the projector, at 2e-3; then tasks alone
              move all weights. Needs captions.jsonl and tasks.jsonl in place of composed.jsonl.
  :lora       LoRA of rank 16 in the decoder, and the projector; at 2e-4.
  :tiny       two steps on whatever folders are given; `:tiny_two_stage` two of each stage.
"""

from typing import Any

from ml_collections import ConfigDict

PRESETS = ("default", "two_stage", "lora")
RECORDS, TASKS = 500_000, 144_000  # captions, and those with a task that agrees
BATCH, HELD_OUT = 128, 512
TOWER = "weights/image/vision/.*"


def get_config(choice: str = "default") -> ConfigDict:
    """The recipe; `choice` is one of `PRESETS`, `tiny`, or `tiny_` before one of them."""
    return make("posttrain_biomed_llava", choice, RECORDS, TASKS)


def make(name: str, choice: str, records: int, tasks: int) -> ConfigDict:
    """The recipe for a domain.

    Args:
      name: of the recipe.
      choice: as for `get_config`.
      records: captions of the domain.
      tasks: those of them with a task.
    """
    tiny = choice.startswith("tiny")
    preset = choice.removeprefix("tiny").removeprefix("_") or "default"
    if preset not in PRESETS:
        raise ValueError(f"{choice!r}; expected one of {PRESETS}, 'tiny', or 'tiny_' before one")
    staged, lora = preset == "two_stage", preset == "lora"
    config = ConfigDict()
    config.name = f"{name}_{choice}" if choice != "default" else name
    config.task = "instruct"
    config.seeds = (0,)
    config.languages = ("en", "en")
    config.evals = ("held_out",)
    config.encoders = dict(
        language=dict(
            source="hf:Lin-Chen/open-llava-next-llama3-8b",
            dtype="float32" if tiny else "bfloat16",
            max_length=512 if tiny else 6144,
        )
    )
    config.questions = dict(
        source="records:tasks.jsonl" if staged else "records:composed.jsonl",
        images="pictures",
        markers="llama3",
        val_pictures=2 if tiny else HELD_OUT // 2,
        test_pictures=2 if tiny else HELD_OUT // 2,
        per_picture=1,
        skip_empty=False,
    )
    config.instruct = dict(
        train="projector" if lora else "full",
        start="captions" if staged else "",
        adapter="lora" if lora else "none",
        rank=16,
        alpha=32.0,
        targets=("query", "key", "value", "out", "gate", "up", "down"),
        visual=not lora,
        remat=not tiny,
    )
    config.optim = dict(
        name="adamw",
        lr=2e-4 if lora else 2e-5,
        weight_decay=0.0,
        b1=0.9,
        b2=0.999,
        schedule="cosine",
        warmup_steps=0,
        clip_norm=1.0,
        rates=() if lora else (dict(parameters=TOWER, factor=0.1),),
    )
    config.train = dict(
        steps=1,
        batch_size=2 if tiny else BATCH,
        accumulate=1 if tiny else 4,
        eval_every=1,
        save_every=1,
        keep=1,
        log_every=1 if tiny else 10,
        select="none",
        cache_features=False,
    )
    _last(config, tasks if staged else records, tiny)
    if staged:
        captions = ConfigDict(
            dict(
                questions=dict(source="records:captions.jsonl"),
                instruct=dict(train="projector", start="", visual=False),
                optim=dict(lr=2e-3, rates=()),
                train=dict(),
            )
        )
        _last(captions, records, tiny)
        config.variants = dict(captions=captions)
    config.mesh = dict(data=-1, model=1, slices=1, fsdp=False)
    config.checkpoint = dict(allow_other_encoder=False)
    config.writer = dict(tensorboard=False)
    return config


def _last(config: Any, rows: int, tiny: bool) -> None:
    """One epoch of rows, 3 % of it warm-up; two steps where it is tiny."""
    steps = 2 if tiny else -(-(rows - HELD_OUT) // BATCH)
    config.train.steps = steps
    config.train.eval_every = config.train.save_every = max(1, steps // 8)
    config.optim.warmup_steps = steps * 3 // 100
