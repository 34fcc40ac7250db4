"""The whole recipe for users' CLIP checkpoints, on tiny ones: true layouts, report, use, cache."""

import base64
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw
from tokenizers import Tokenizer, models, pre_tokenizers, processors

import mmjax
from configs.language_clip_coco_cn import get_config
from configs.zeroshot_chinese_clip import get_config as get_zeroshot
from mmjax import study
from mmjax.data import feature_cache
from mmjax.errors import MmjaxError
from mmjax.report.results import Results
from mmjax.specs.build import as_dict
from mmjax.specs.recipe import resolve_recipe
from mmjax.tasks.catalog import definition_of

ROOT = Path(__file__).parents[2]
COLOURS = ("red", "orange", "gold", "green", "teal", "blue", "purple", "brown", "grey", "black")


def png(i):
    image = Image.new("RGB", (24, 30), "white")
    pen = ImageDraw.Draw(image)
    box = (3, 3, 12 + i % 9, 27) if i % 2 else (2, 9, 21, 12 + i % 13)
    (pen.ellipse if i % 3 else pen.rectangle)(box, fill=COLOURS[i % 10])
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def text(i, shift):
    """English words w4.., Chinese words 20 higher."""
    return f"w{4 + i % 10 + shift} w{14 + i % 4 + shift}"


def write_layout(folder, split, pictures, queries, english=()):
    """Chinese-CLIP's files of one split; `queries` and `english` are (text, picture ids)."""
    folder.mkdir(exist_ok=True)
    rows = [f"{i}\t{base64.urlsafe_b64encode(png(i)).decode()}\n" for i in pictures]
    (folder / f"{split}_imgs.tsv").write_text("".join(rows))
    for suffix, asked in (("", queries), ("_en", english)):
        lines = [
            json.dumps({"text_id": n, "text": words, "image_ids": list(ids)}) + "\n"
            for n, (words, ids) in enumerate(asked, 100)
        ]
        if lines:
            (folder / f"{split}_texts{suffix}.jsonl").write_text("".join(lines))


COCO = [(text(i, 20), [i]) for i in range(12)] + [(f"w{24 + i % 10}", [i]) for i in range(7)]
MUGE = [("w24", [30, 31, 37]), ("w25 w35", [32]), ("w26", [33, 31]), ("w27 w34", [34])]


def write_clip_tokenizer(path):
    """Words w4 .. w47 between a start and CLIP's end of text, which its config names."""
    words = {"[PAD]": 0, "[UNK]": 3, "[SOT]": 48, "[EOT]": 49}
    words |= {f"w{i}": i for i in range(4, 48)} | {"[1]": 1, "[2]": 2}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[SOT] $A [EOT]", special_tokens=[("[SOT]", 48), ("[EOT]", 49)]
    )
    tokenizer.save(str(path))


def write_classes(folder, place, names):
    for i, name in enumerate(names):
        (folder / place / name).mkdir(parents=True)
        for k in range(3):
            (folder / place / name / f"{k}.PNG").write_bytes(png(i + 3 * k))


@pytest.fixture(scope="module")
def world(tmp_path_factory, write_folder):
    folder = tmp_path_factory.mktemp("world")
    write_folder(folder / "clip", "clip_tiny")
    write_clip_tokenizer(folder / "clip" / "tokenizer.json")
    write_folder(folder / "roberta", "bert_tiny")
    pairs = [{"source": text(i, 20), "target": text(i, 0)} for i in range(20)]
    pairs += [{"source": f"w{24 + i} w40", "target": f"w{4 + i} w20"} for i in range(10)]
    pairs += [{"source": f"w41 w{24 + i}", "target": f"w21 w{4 + i}"} for i in range(10)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(p) + "\n" for p in pairs))
    english = [(text(i, 0), [i]) for i in range(12)]
    write_layout(folder / "COCO-CN", "test", range(12), COCO, english)
    write_layout(folder / "Flickr30k-CN", "test", range(12, 20), [("w26 w36", [13, 14])])
    write_layout(folder / "MUGE", "valid", range(30, 38), MUGE)
    write_layout(folder / "MUGE", "test", range(50, 53), [("w24", [])])
    write_classes(folder / "cifar", "test", ["0", "1", "2"])
    (folder / "cifar" / "label_cn.txt").write_text("w24\nw25\nw26\n")
    (folder / "cifar" / "label.txt").write_text("w4\nw5\nw6\n")
    write_classes(folder / "imagenet", "val", ["n01440764", "n01443537"])
    (folder / "imagenet" / "label_cn.txt").write_text("w27 w35\nw28\n")
    (folder / "imagenet" / "forms.txt").write_text("{}\nw40 {}\n")
    return folder


def flags(world):
    return {
        "encoders.text.source": str(world / "clip"),
        "encoders.foreign.source": str(world / "roberta"),
        "encoders.foreign.max_length": 12,
        "pairs.source": f"cn_clip:{world / 'COCO-CN'}",
        "parallel.sources": (str(world / "pairs.jsonl"),),
        "benchmarks.retrieval": (f"cn_clip:{world / 'Flickr30k-CN'}", f"cn_clip:{world / 'MUGE'}"),
    }


@pytest.fixture(scope="module")
def finished(world):
    """The documented command, tiny, in a process of its own."""
    workdir = world / "run"
    command = [sys.executable, "-m", "mmjax.main", "--workdir", str(workdir)]
    command += ["--config", str(ROOT / "configs" / "language_clip_coco_cn.py:tiny")]
    command += [f"--config.{name}={value}" for name, value in flags(world).items()]
    cache = {"MMJAX_CACHE": str(world / "cache"), "MMJAX_OFFLINE": "1", "JAX_PLATFORMS": "cpu"}
    environment = os.environ | cache | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=world, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert "adapted, zh queries" in done.stdout
    return workdir


@pytest.fixture(scope="module")
def adapted(finished):
    return mmjax.load_adapter(finished, kind=mmjax.Adapted)


def config_of(world, **changes):
    config = get_config("tiny")
    for name, value in (flags(world) | changes).items():
        place: Any = config
        last = name.split(".")
        for part in last[:-1]:
            place = place[part]
        place[last[-1]] = value
    return as_dict(config)


def recipe_of(world, **changes):
    return resolve_recipe(config_of(world, **changes))


def test_one_flag_names_the_checkpoint_of_both_towers_in_base_and_stage(world):
    stages = recipe_of(world).stages
    assert [stage.name for stage in stages] == ["base", "linear", "language"]
    sources = {stage.encoders[r].source for stage in stages for r in ("image", "text")}
    assert sources == {str(world / "clip")}
    assert {stage.pairs.source for stage in stages} == {f"cn_clip:{world / 'COCO-CN'}"}


def published(queries, gallery, right):
    """R@1, 5, 10 as cn_clip/eval/evaluation.py counts them: any right one among the first k."""
    ranking = np.argsort(-(queries.astype(np.float64) @ gallery.astype(np.float64).T), axis=1)
    asked = [i for i in range(len(queries)) if right[i]]
    return [np.mean([bool(set(ranking[i][:k]) & right[i]) for i in asked]) for k in (1, 5, 10)]


@pytest.mark.parametrize(
    ("prefix", "queries", "pictures"),
    [("", COCO, range(12)), ("MUGE/", MUGE, range(30, 38))],
    ids=["COCO-CN", "MUGE"],
)
def test_the_reported_recalls_are_those_of_the_published_protocol(
    finished, adapted, prefix, queries, pictures
):
    results = Results.load(finished / "results.json").systems["adapted"]
    images = adapted.embed_images([png(i) for i in pictures])
    texts = adapted.embed_texts([words for words, _ in queries])
    place = {name: n for n, name in enumerate(pictures)}
    right = [{place[i] for i in ids} for _, ids in queries]
    back = [{q for q, found in enumerate(right) if n in found} for n in range(len(images))]
    for direction, wanted in (
        ("t2i", published(texts, images, right)),
        ("i2t", published(images, texts, back)),
    ):
        found = [results[f"{prefix}{direction}_R@{k}"][0] for k in (1, 5, 10)]
        assert found == pytest.approx(wanted)
        assert results[f"{prefix}{direction}_mR"][0] == pytest.approx(np.mean(wanted))


def test_systems_and_tables(finished):
    results = Results.load(finished / "results.json")
    assert list(results.systems) == ["ceiling", "floor", "linear", "adapted"]
    assert results.counts["test"] == [12]
    assert results.counts["queries"] == [19]
    assert results.counts["MUGE/pictures"] == [8]  # those that no query names too
    titles = [table.title for table in definition_of("language").tables(results)]
    assert titles == [
        "Text to image",
        "Image to text",
        "Flickr30k-CN: text to image",
        "Flickr30k-CN: image to text",
        "MUGE: text to image",
        "MUGE: image to text",
    ]
    assert "12 pictures and 19 queries" in definition_of("language").tables(results)[0].caption
    # English captions: only of COCO-CN here.
    assert "t2i_mR" in results.systems["ceiling"]
    assert "MUGE/t2i_mR" not in results.systems["ceiling"]
    assert "recovery_t2i_mR" in results.systems["adapted"]
    assert "MUGE/recovery_t2i_mR" not in results.systems["adapted"]
    report = (finished / "report.md").read_text()
    assert "ceiling: base, en queries" in report
    assert "MUGE: text to image" in report


def test_the_base_is_the_checkpoint_itself(finished, world):
    folder = finished / "seed_0" / "base"
    assert {path.name for path in folder.iterdir()} == {"adapter", "done.json", "params.txt"}
    base = mmjax.load_adapter(folder, kind=mmjax.Adapted)
    assert base.card["trainable"]["count"] == 1
    wanted = mmjax.load_encoder(world / "clip", tower="text").embed_texts(["w4 w14", "w9"])
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    np.testing.assert_allclose(base.embed_texts(["w4 w14", "w9"]), wanted, atol=1e-6)


def test_the_adapter_is_chosen_by_text_alone_and_learns(finished, adapted):
    lines = (finished / "seed_0" / "language" / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert {k for r in records for k in r if k.startswith("val/")} == {
        *(f"val/t2t_{name}" for name in ("R@1", "R@5", "R@10", "mR", "median_rank")),
        "val/cosine_to_base",
    }
    losses = [r["loss"] for r in records if "loss" in r]
    assert losses[-1] < losses[0]
    found = adapted.search(["w24 w34"], [png(i) for i in range(3)], k=2)
    assert len(found[0]) == 2


@pytest.fixture
def cached(world, monkeypatch):
    monkeypatch.setenv("MMJAX_CACHE", str(world / "cache"))


def test_classification_after_the_fact(finished, adapted, world, cached, monkeypatch):
    sets = str(world / "cifar"), str(world / "imagenet")
    changes = {
        "evals": ("retrieval", "classification"),
        "benchmarks.classification": sets,
        "benchmarks.retrieval": (),
        "benchmarks.templates": ("{}", "forms.txt", "w41 {}"),
        "benchmarks.base_templates": ("{}",),
    }
    # cifar has no forms.txt of its own: the one of the working folder is read.
    monkeypatch.chdir(world / "imagenet")
    before = (finished / "results.json").read_bytes()
    config = config_of(world, **changes)
    study.evaluate(resolve_recipe(config), config, finished, "test")
    (place,) = (finished / "evaluations").iterdir()
    results = Results.load(place / "results.json")
    assert (finished / "results.json").read_bytes() == before
    for name, classes, names in (
        ("cifar", ("0", "1", "2"), ("w24", "w25", "w26")),
        ("imagenet", ("n01440764", "n01443537"), ("w27 w35", "w28")),
    ):
        forms = ("{}", "{}", "w40 {}", "w41 {}")
        each = [adapted.embed_texts([form.replace("{}", n) for form in forms]) for n in names]
        weights = np.stack([e.mean(axis=0) / np.linalg.norm(e.mean(axis=0)) for e in each])
        images = adapted.embed_images(
            [png(i + 3 * k) for i in range(len(classes)) for k in range(3)]
        )
        right = (images @ weights.T).argmax(axis=1) == np.repeat(range(len(classes)), 3)
        values = results.systems["adapted"]
        assert values[f"{name}/zeroshot_acc"] == [pytest.approx(right.mean())]
        assert results.counts[f"{name}/classes"] == [len(classes)]
        assert f"{name}/zeroshot_acc" in results.systems["floor"]
    # English names: only cifar has them.
    assert "cifar/zeroshot_acc" in results.systems["ceiling"]
    assert "imagenet/zeroshot_acc" not in results.systems["ceiling"]
    table = definition_of("language").tables(results)[-1]
    assert table.title.startswith("Zero-shot classification by names and templates")
    assert "cifar: 9 pictures of 3 classes" in table.caption


def test_nothing_frozen_is_computed_twice(finished, world, cached, monkeypatch):
    def refuse(*_):
        pytest.fail("features are computed again")

    monkeypatch.setattr(feature_cache, "_compute", refuse)
    before = json.loads((finished / "results.json").read_text())["systems"]
    study.evaluate(recipe_of(world), config_of(world), finished, "test")
    after = json.loads((finished / "results.json").read_text())["systems"]
    assert after.keys() == before.keys()
    for name, metrics in before.items():
        assert after[name] == {k: pytest.approx(v) for k, v in metrics.items()}


@pytest.mark.slow
def test_without_english_captions_there_is_no_ceiling(world, cached, tmp_path):
    changes = {
        "pairs.source": f"cn_clip:{world / 'MUGE'}",
        "benchmarks.retrieval": (),
        "train.steps": 2,
        "train.eval_every": 2,
        "variants": {},
    }
    recipe = recipe_of(world, **changes)
    study.run(recipe, {"name": recipe.name}, tmp_path / "run", "test")
    results = Results.load(tmp_path / "run" / "results.json")
    assert list(results.systems) == ["floor", "adapted"]
    assert "recovery_t2i_mR" not in results.systems["adapted"]
    assert "no en captions" in (tmp_path / "run" / "report.md").read_text()


@pytest.mark.slow
def test_a_chinese_clip_is_measured_as_it_is(world, write_folder, cached, tmp_path):
    write_folder(tmp_path / "chinese_clip", "chinese_clip_tiny")
    config: Any = get_zeroshot("tiny")
    config.encoders.image.source = str(tmp_path / "chinese_clip")
    config.encoders.text.max_length = 12
    config.pairs.source = f"cn_clip:{world / 'COCO-CN'}"
    config.evals = ("retrieval", "classification")
    config.benchmarks.retrieval = ()
    config.benchmarks.classification = (str(world / "cifar"),)
    recipe = resolve_recipe(as_dict(config))
    study.run(recipe, {"name": recipe.name}, tmp_path / "run", "test")
    results = Results.load(tmp_path / "run" / "results.json")
    assert list(results.labels.values()) == ["base, zh queries"]
    found = mmjax.load_adapter(tmp_path / "run", kind=mmjax.Adapted)
    texts = found.embed_texts([words for words, _ in COCO])
    images = found.embed_images([png(i) for i in range(12)])
    wanted = published(texts, images, [set(ids) for _, ids in COCO])
    values = results.systems["adapted"]
    assert [values[f"t2i_R@{k}"][0] for k in (1, 5, 10)] == pytest.approx(wanted)
    assert 0 <= values["cifar/zeroshot_acc"][0] <= 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pairs.sides": ("train",)}, r"config.pairs.sides is \('train',\); expected 'test'"),
        ({"parallel.sources": ("captions",)}, "expected 'train' too: this stage trains on pairs"),
        ({"parallel.val_pairs": 0}, "or parallel.val_pairs"),
        ({"train.select": "mR"}, "config.train.select is 'mR'; expected with val_pairs one of"),
        ({"base.encoders.text.output": "tokens"}, "encoders.text.output is 'tokens'; expected"),
        ({"evals": ("classification",)}, r"benchmarks.classification is \(\); expected at least"),
        ({"benchmarks.templates": ("{} {}",)}, r"expected texts with one '\{\}' each"),
        ({"benchmarks.retrieval": ("muge:a/b", "muge:c/b")}, "folders of different names"),
    ],
)
def test_what_cannot_work_is_refused_at_the_door(world, changes, message):
    with pytest.raises(MmjaxError, match=message):
        recipe_of(world, **changes)


def test_data_that_does_not_fit_is_told_before_any_training(world, cached, tmp_path):
    def refuse(message, **changes):
        workdir = tmp_path / str(len(list(tmp_path.iterdir())))
        with pytest.raises(MmjaxError, match=message):
            study.run(recipe_of(world, **changes), {"x": 1}, workdir, "test")
        assert not list(workdir.glob("seed_*/*/adapter"))

    missing = {"benchmarks.retrieval": (f"cn_clip:{world / 'nothing'}",)}
    refuse("cannot read .*nothing", **missing)
    classes = {"evals": ("classification",), "benchmarks.names": "names.txt"}
    classes |= {"benchmarks.base_names": "names.txt"}
    refuse("has none of the files", **classes, **{"benchmarks.classification": (str(world),)})
    refuse("leaves nothing of 40 pairs", **{"parallel.val_pairs": 40})
    roberta = {"encoders.image.source": str(world / "roberta")}
    refuse("has no 'image' tower", **roberta)
