"""How every recipe is run in small, and the data of those whose own data cannot be fetched.

A recipe that is not named here is run as `configs/NAME.py:tiny`. Nothing here imports mmjax:
`tools.same_results` starts more than one version of it.
"""

import base64
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

PICTURES = 32  # of a class that is drawn


@dataclass(frozen=True)
class Small:
    """How a recipe is run in small that has no data of its own, or no `:tiny`.

    Attributes:
      choice: of the recipe, after the colon.
      settings: of the recipe, by name; {data} is the folder of the data.
      base: a recipe whose run it stands on.
    """

    choice: str = "tiny"
    settings: Mapping[str, str] = field(default_factory=dict)
    base: str = ""


SHORT = {"train.steps": "4", "train.eval_every": "2", "train.save_every": "2"}
SHORT |= {"train.batch_size": "4", "train.log_every": "1"}
CLIP = {  # one flag for both towers
    "encoders.text.source": "{data}/world0/clip",
    "encoders.text.max_length": "12",
    "pairs.source": "cn_clip:{data}/world0/COCO-CN",
    "benchmarks.retrieval": "('cn_clip:{data}/world0/MUGE',)",
}
LAVIN = {
    f"encoders.{role}.source": f"{{data}}/instructions0/{role}" for role in ("image", "language")
}
SCIENCEQA = Small(
    settings={**LAVIN, "questions.source": "scienceqa:{data}/instructions0/scienceqa"}
)
RECIPES = {
    "chain_clip": Small(
        settings={
            "encoders.text.source": "{data}/world0/clip",
            "encoders.foreign.source": "{data}/world0/roberta",
            "encoders.foreign.max_length": "12",
            "pairs.source": "{data}/products.jsonl",
            "base.base.parallel.sources": "('{data}/world0/pairs.jsonl',)",
        }
    ),
    "domain_food101": Small("{data}/food", SHORT, "base_emoji"),
    "domain_muge": Small("{data}/muge", SHORT, "language_emoji"),
    "language_clip_coco_cn": Small(
        settings={
            **CLIP,
            "encoders.foreign.source": "{data}/world0/roberta",
            "encoders.foreign.max_length": "12",
            "parallel.sources": "('{data}/world0/pairs.jsonl',)",
        }
    ),
    "lavin_chat": Small(
        settings={
            **LAVIN,
            "questions.source": "llava:{data}/instructions0/llava.json",
            "questions.mix": "('alpaca:{data}/instructions0/alpaca.json',)",
            "questions.images": "{data}/instructions0",
        }
    ),
    "lavin_scienceqa_7b": SCIENCEQA,
    "lavin_scienceqa_13b": SCIENCEQA,
    "projection_mmimdb": Small(
        "{data}/films",
        {
            **SHORT,
            "variants.paper.train.steps": "4",
            "seeds": "(0,)",
            "encoders.image.source": "asset:dinov2-small",
            "encoders.text.source": "asset:minilm-l6",
        },
    ),
    "projection_embeddings": Small(
        "{data}/cases.jsonl", {**SHORT, "variants.supcon.projection.hidden": "4", "seeds": "(0,)"}
    ),
    "prompts_coop": Small(
        "{data}/pets",
        {
            **SHORT,
            "variants.coop.prompts.general": "4",
            "seeds": "(1,)",
            "encoders.image.source": "{data}/world0/clip",
            "encoders.text.source": "{data}/world0/clip",
        },
    ),
    "zeroshot_chinese_clip": Small(settings=CLIP),
}
# The tests whose fixtures are the folders `world0` and `instructions0`.
FIXTURES = (
    "tests/run/test_language_clip.py::"
    "test_one_flag_names_the_checkpoint_of_both_towers_in_base_and_stage",
    "tests/run/test_instructions.py::test_a_corrupt_picture_is_named_by_its_problem",
)


def command_line(name: str, runs: Path, data: Path) -> list[str]:
    """Arguments of `mmjax.main` that train a recipe in small.

    Args:
      name: of the recipe.
      runs: the folder of its run, NAME, and of that which it stands on.
      data: where `draw_data` and the fixtures wrote.

    Returns:
      --config, --workdir and the settings.
    """
    small = RECIPES.get(name, Small())
    settings = {**small.settings, **({"base": str(runs / small.base)} if small.base else {})}
    recipe = f"configs/{name}.py:{small.choice}".format(data=data)
    overrides = [f"--config.{key}={value.format(data=data)}" for key, value in settings.items()]
    return ["--config", recipe, "--workdir", str(runs / name), *overrides]


def draw_data(folder: Path) -> None:
    """Writes two classes of coloured pictures in the layouts of Food-101, MUGE, MM-IMDb and CoOp.

    Args:
      folder: gets the folders `food`, `muge`, `films` and `pets`, and beside them `products.jsonl`
        (the same pictures with names in two languages) and `cases.jsonl` (numbers of two classes).
    """
    names, rows = ("w4", "w5"), {"train": [], "test": []}
    for i in range(2 * PICTURES):
        buffer = io.BytesIO()
        Image.new("RGB", (24, 24), (200 * (i % 2), 7 * i % 256, 3 * i)).save(buffer, "JPEG")
        rows["test" if i % 8 > 5 else "train"].append((i, names[i % 2], buffer.getvalue()))
    for name in ("classes", "labels"):
        _write(folder / f"food/meta/{name}.txt", "\n".join(names))
    films, pets = {"dev": []}, {}
    for side, examples in rows.items():
        films[side] = [f"{i:07d}" for i, _, _ in examples]
        pets[side] = [[f"{i}.jpg", names.index(name), name] for i, name, _ in examples]
        dishes = "\n".join(f"{name}/{i}" for i, name, _ in examples)
        _write(folder / f"food/meta/{side}.txt", dishes)
        muge = folder / "muge" / {"train": "train", "test": "valid"}[side]
        pictures = "".join(f"{i}\t{base64.b64encode(p).decode()}\n" for i, _, p in examples)
        _write(Path(f"{muge}_imgs.tsv"), pictures)
        queries = ({"text_id": i, "text": f"颜色{i}", "image_ids": [i]} for i, _, _ in examples)
        _write(Path(f"{muge}_texts.jsonl"), "\n".join(map(json.dumps, queries)))
        for i, name, picture in examples:
            genre = {"w4": "Drama", "w5": "Comedy"}[name]
            film = {"genres": [genre], "plot": [f"Colour {i} is seen."]}
            _write(folder / f"films/dataset/{i:07d}.json", json.dumps(film))
            _write(folder / f"films/dataset/{i:07d}.jpeg", picture)
            _write(folder / f"food/images/{name}/{i}.jpg", picture)
            _write(folder / f"pets/images/{i}.jpg", picture)
    every = sorted(i for examples in rows.values() for i, _, _ in examples)
    products = (
        {
            "image": f"pets/images/{i}.jpg",
            "en": f"{names[i % 2]} w{6 + i % 8}",
            "zh": f"w{24 + i % 2} w{26 + i % 8}",
            "label": {"en": names[i % 2], "zh": f"w{24 + i % 2}"},
        }
        for i in every
    )
    _write(folder / "products.jsonl", "\n".join(map(json.dumps, products)))
    cases = ({"label": names[i % 2], "age": i % 7 + i % 2, "dose": i / 9} for i in every)
    _write(folder / "cases.jsonl", "\n".join(map(json.dumps, cases)))
    _write(folder / "films/split.json", json.dumps(films))
    _write(folder / "pets/split_zhou_Drawn.json", json.dumps(pets))


def _write(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
