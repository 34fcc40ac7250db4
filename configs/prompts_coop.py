"""Few-shot classification with CLIP on a data set in CoOp's layout.

  python -m mmjax.main --config configs/prompts_coop.py:data/oxford_pets
  python -m mmjax.main --config configs/prompts_coop.py:data/dtd --config.prompts.method=coop

The folder holds `split_zhou_*.json` (Caltech101, OxfordPets, StanfordCars, Flowers102, Food101,
SUN397, DTD, EuroSAT, UCF101), `images_variant_*.txt` (FGVC-Aircraft) or `classnames.txt` (ImageNet)
as CoOp's DATASETS.md says. CLIP comes from the Hugging Face hub; any folder or checkpoint of CLIP
will do. To go on from a context that CoOp trained:

  --config.prompts.context=prompt_learner/model.pth.tar-50 --config.prompts.general=16

Its prompts end in CoOp's full stop, "X X X X {class}.", which is how such a context was trained.

Every method is trained on as many pictures, 1,000 steps of 32, by one optimizer but for MaPLe (with
16 shots of 37 classes 54 epochs; --config.train.steps changes it for all). The papers differ: CoOp
runs 50 epochs of batches of 32 with 1 shot, 100 with 2 and 4, 200 with 8 and 16; CLAP 300 of 256;
Tip-Adapter-F 20; MaPLe 5 of 4. What is a method's own is as its paper has it, and nothing was
chosen on emoji: CoOp 16 random tokens, KgCoOp and the structured prompts "a photo of a",
Tip-Adapter alpha 1 and beta 5.5, TaskRes alpha 0.5, CLIP-Adapter ratio 0.2, CLIP-LoRA rank 2,
alpha 1, dropout 0.25 and a learning rate of 2e-4 in the queries, keys and values of both towers;
MaPLe 2 tokens, from the first words of "a photo of a", in the first 9 layers of both towers, by SGD
at 3.5e-3 with a weight decay of 5e-4. The pictures of these last two run through their tower in
every step. Most papers search some of these for every data set; one set of them serves all here.

Not measured here: bring the data.
"""

from ml_collections import ConfigDict

from configs.prompts_emoji import variant

CLIP = "hf:openai/clip-vit-base-patch16"
LORA = dict(kind="lora", rank=2, alpha=1.0, dropout=0.25, targets=("query", "key", "value"))
METHODS = dict(
    linear_probe=dict(),
    tip_adapter=dict(train=dict(steps=0)),
    tip_adapter_f=dict(prompts=dict(method="tip_adapter"), optim=dict(lr=1e-3)),
    clip_adapter=dict(),
    task_residual=dict(prompts=dict(alpha=0.5)),
    clap=dict(prompts=dict(anchor=1.0)),
    coop=dict(prompts=dict(context="", general=16, anchor=0.0)),
    kgcoop=dict(prompts=dict(anchor=8.0)),
    maple=dict(
        prompts=dict(general=2, depth=9, anchor=0.0),
        optim=dict(name="sgd", lr=3.5e-3, weight_decay=5e-4),
    ),
    factorised=dict(),
    # The hand-written prompt stays; what learns are the towers.
    clip_lora=dict(
        prompts=dict(method="coop", anchor=0.0),
        adapters={role: dict(LORA) for role in ("image", "text")},
        optim=dict(lr=2e-4, rates=[dict(parameters="general", factor=0.0)]),
    ),
)


def get_config(folder: str = "data/oxford_pets") -> ConfigDict:
    """The recipe for a data set's folder."""
    config = ConfigDict()
    config.name = f"prompts_coop_{folder.rstrip('/').rsplit('/', 1)[-1]}"
    config.task = "prompts"
    config.seeds = (1, 2, 3)  # CoOp's
    config.languages = ("en", "en")
    config.evals = ("fewshot",)
    config.base = None  # CLIP's towers share a space already
    config.encoders = dict(
        image=dict(source=CLIP, output="pooled"), text=dict(source=CLIP, output="pooled")
    )
    config.pairs = dict(
        source=f"coop:{folder}",
        styles=("photo",),
        views=("plain",),
        val_fraction=0.01,
        development=0.0,
        pool="all",
    )
    config.prompts = dict(
        method="structured",
        template="a photo of a {}.",
        templates=("a photo of a {}.", "a close-up photo of a {}.", "a drawing of a {}."),
        context="a photo of a",
        ending=".",
        general=4,
        domain=True,
        instance=2,
        anchor=1.0,
        chunk=256,
        attention=64,
        alpha=1.0,
        beta=5.5,
        ratio=0.2,
        bottleneck=128,
    )
    config.fewshot = dict(shots=16, min_families=1, half="all", styles=())
    config.loss = dict(kind="contrastive", label_smoothing=0.0)
    config.optim = dict(name="adamw", lr=2e-3, weight_decay=0.0, warmup_steps=50, clip_norm=1.0)
    config.train = dict(
        steps=1000,
        batch_size=32,
        eval_every=100000,
        patience=0,
        save_every=200,
        keep=1,
        log_every=20,
        select="none",
        cache_features=True,
    )
    config.variants = {name: variant(name, changes, 16) for name, changes in METHODS.items()}
    config.mesh = dict(data=-1, model=1)
    config.checkpoint = dict(allow_other_encoder=False)
    config.writer = dict(tensorboard=False)
    return config
