"""A Chinese CLIP as it is, measured by the published protocol: nothing is trained.

  python -m mmjax.main --config configs/zeroshot_chinese_clip.py

Use it to check data and preprocessing against the published rows (docs/guides) before something is
trained on the same data, or to measure a CLIP of your own: --config.encoders.text.source names both
of its towers. Data as in `configs/language_clip_coco_cn.py`. For an English CLIP on English
captions set languages to ("zh", "en"), base_names to label.txt and base_templates to English ones.

Measured: not yet.
"""

from typing import Any

from ml_collections import ConfigDict

from configs.language_clip_coco_cn import get_config as get_language


def get_config(size: str = "full") -> ConfigDict:
    """The recipe; `size` is `full` or `tiny`, which are alike where nothing is trained."""
    config: Any = get_language(size)
    config.name = f"zeroshot_chinese_clip{'_tiny' if size == 'tiny' else ''}"
    config.task = "pretrained"
    config.languages = ("en", "zh")  # the second is what the model reads
    config.encoders.text.source = "hf:OFA-Sys/chinese-clip-vit-base-patch16"
    config.encoders.text.max_length = 52
    for key in ("base", "parallel", "adapter", "variants", "optim"):
        del config[key]
    del config.encoders.foreign
    config.loss = dict(kind="contrastive")
    chinese = dict(base_names=config.benchmarks.names, base_templates=config.benchmarks.templates)
    config.benchmarks.update(chinese)
    return config
