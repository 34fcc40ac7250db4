"""Chinese for a CLIP that only knows English, measured on COCO-CN, Flickr30k-CN and MUGE.

  python -m mmjax.main --config configs/language_clip_coco_cn.py

A set-up like the talk's. Both towers of CLIP ViT-L/14 stay as their checkpoint has them; a frozen
Chinese RoBERTa reads Chinese, and a linear map, a transformer layer and another linear map take its
tokens into CLIP's English text space, distilled on parallel text alone (no image is seen).

You bring
  data/parallel_zh_en.jsonl   {"source": "一只猫", "target": "a cat"}, one pair a line
  data/COCO-CN, data/Flickr30k-CN, data/MUGE   in Chinese-CLIP's layout (see
                              mmjax/data/corpora/cn_clip.py)
and CLIP and the RoBERTa come from the Hugging Face hub. Only test pictures are read. COCO-CN has no
English captions of its own: with a file `test_texts_en.jsonl` beside its others the table gets the
English ceiling, else it has the floor (Chinese in CLIP's own text tower), a linear map and the
adapter.

Frozen tokens are cached, 50,000 pairs of some 20 tokens in 3 GB of memory and disk;
--config.train.cache_features=False computes them in every step instead.

Classification sets in ImageNet's or ELEVATER's layout, after the fact with --mode evaluate:
  --config.evals='("retrieval", "classification")'
  --config.benchmarks.classification='("data/cifar-10",)'

Measured: not yet; `:tiny` runs in the tests on random checkpoints. Published rows: see the
guide `chinese_clip`.
"""

from typing import Any

from ml_collections import ConfigDict, FieldReference


def get_config(size: str = "full") -> ConfigDict:
    """The recipe; `size` is `full`, or `tiny` for small sizes of everything that is trained."""
    if size not in ("full", "tiny"):
        raise ValueError(f"size {size!r}; expected 'full' or 'tiny'")
    tiny = size == "tiny"
    # One reference: --config.encoders.text.source sets it for both towers, here and in the base.
    clip = FieldReference("hf:openai/clip-vit-large-patch14")
    config: Any = ConfigDict()
    config.name = f"language_clip_coco_cn{'_tiny' if tiny else ''}"
    config.task = "language"
    config.seeds = (0,)
    config.languages = ("zh", "en")  # (added, known)
    config.evals = ("retrieval",)
    pairs: Any = ConfigDict(dict(source="cn_clip:data/COCO-CN", sides=("test",), limit=0))
    base: Any = ConfigDict(dict(task="pretrained"))
    for part in (base, config):
        part.encoders = ConfigDict()
        for tower in ("image", "text"):
            part.encoders[tower] = dict(source=clip, output="pooled")
        part.pairs = pairs  # one object: what is set here holds for the base too
    config.base = base
    config.encoders.foreign = dict(
        source="hf:hfl/chinese-roberta-wwm-ext", output="tokens", max_length=52
    )
    config.benchmarks = dict(
        retrieval=("cn_clip:data/Flickr30k-CN", "cn_clip:data/MUGE"),
        classification=(),
        names="label_cn.txt",
        templates=("{}", "一张{}的照片", "一幅{}的图片", "这是{}"),
        base_names="label.txt",
        base_templates=("{}", "a photo of a {}.", "a picture of a {}.", "this is a {}."),
        limit=0,
    )
    config.parallel = dict(
        sources=("data/parallel_zh_en.jsonl",), limit=50_000, val_pairs=8 if tiny else 1000
    )
    config.adapter = dict(
        kind="transformer",
        width=16 if tiny else 768,
        num_layers=1,
        num_heads=2 if tiny else 12,
        mlp_ratio=4,
        dropout=0.1,
        input_dropout=0.0,
        skip=True,
        skip_hidden=0,
        members=1,
        space="joint",
    )
    config.loss = dict(kind="distill_mse")
    config.optim = dict(
        name="adamw",
        lr=3e-3 if tiny else 3e-4,
        weight_decay=0.01,
        b2=0.98,
        warmup_steps=2 if tiny else 200,
        clip_norm=1.0,
    )
    config.train = dict(
        steps=20 if tiny else 3000,
        batch_size=8 if tiny else 512,
        eval_every=10 if tiny else 250,
        patience=0,
        save_every=10 if tiny else 250,
        log_every=5 if tiny else 20,
        select="cosine_to_base",
        cache_features=True,
    )
    config.variants = dict(linear=dict(adapter=dict(kind="linear")))
    config.mesh = dict(data=-1, model=1)
    config.checkpoint = dict(allow_other_encoder=False)
    config.writer = dict(tensorboard=False)
    return config
