"""An `instruct` recipe from end to end: questions about drawn pictures, tiny models."""

import json
import shutil
from pathlib import Path
from typing import Any

import chex
import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose
from PIL import Image

import mmjax
from mmjax import predict, study
from mmjax.data import easy_vqa
from mmjax.data.library import Library
from mmjax.encoders import LanguageModel, load_encoder
from mmjax.errors import DataError, MmjaxError
from mmjax.evals.vqa import accuracies
from mmjax.generation import generate
from mmjax.interop.peft import import_lora
from mmjax.report.results import Results
from mmjax.runs.adapter_files import load_adapter_params
from mmjax.specs.recipe import resolve_recipe
from mmjax.tasks.catalog import assemble, definition_of
from mmjax.tasks.instruct.rehearsal import own_texts
from mmjax.tasks.instruct.samples import COUNT, read_samples
from mmjax.tasks.run import Run
from tests.run.conftest import changed, draw

ASKED = ("w5 w6", "w8 w9 w10")  # which shape? is it the first colour?


def write_side(folder: Path, side: str, count: int) -> None:
    (folder / side / "images").mkdir(parents=True)
    rows = []
    for i in range(count):
        colour, shape = i % 3, i % 2
        draw(folder / side / "images" / f"{i}.png", 4 * colour, shape)
        rows += [[ASKED[0], f"w{20 + shape}", i], [ASKED[1], "yes" if colour == 0 else "no", i]]
        rows += [["w11", "w25 w26", i]]
    (folder / side / "questions.json").write_text(json.dumps(rows))


@pytest.fixture(scope="module")
def world(tmp_path_factory, write_folder, golden) -> Path:
    """Models that know the answers, of which the language model can learn to be sure of one."""
    folder = tmp_path_factory.mktemp("instruct")
    head = {"lm_head.weight": 5 * golden("llama_tiny")["tensor:lm_head.weight"]}
    tokenizer = write_folder(folder / "language", "llama_tiny", tensors=head) / "tokenizer.json"
    words = tokenizer.read_text().replace('"w48"', '"yes"').replace('"w49"', '"no"')
    tokenizer.write_text(words)
    write_folder(folder / "image", "dinov2_tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMJAX_CACHE", str(folder / "cache"))
        model = load_encoder(folder / "language")
        assert isinstance(model, LanguageModel)
        texts = own_texts(model, 40, 12, seed=9)  # what it finds likely
    (folder / "text.txt").write_text(model.preprocess.tokenizer.decode(texts.ravel().tolist()))
    for side, count in (("train", 14), ("test", 4)):
        write_side(folder / "vqa", side, count)
    return folder


@pytest.fixture(scope="module")
def recipe(world) -> dict[str, Any]:
    return {
        "name": "toy_instruct",
        "task": "instruct",
        "seeds": (0,),
        "evals": ("vqa", "text", "probe"),
        "encoders": {
            "image": {"source": str(world / "image")},
            "language": {"source": str(world / "language")},
        },
        "questions": {
            **{"source": f"easy_vqa:{world / 'vqa'}", "val_pictures": 2, "per_picture": 2},
            "text": str(world / "text.txt"),
        },
        "instruct": {"rank": 4, "taps": 2, "hidden": 8, "temperature": 1.0},
        "optim": {"lr": 5e-2, "warmup_steps": 2},
        "train": {
            **{"steps": 40, "batch_size": 16, "accumulate": 2, "eval_every": 20, "save_every": 20},
            **{"log_every": 1, "select": "vqa_acc", "cache_features": False},
        },
        "mesh": {"data": 4, "model": 2},
        "variants": {
            "lora": {"instruct": {"adapter": "lora", "visual": False}},
            "rehearsed": {
                "questions": {"rehearsal": 32, "rehearsal_share": 0.5, "rehearsal_length": 15}
            },
        },
    }


@pytest.fixture(scope="module")
def finished(recipe, tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("run")
    study.run(resolve_recipe(recipe), recipe, workdir, "python -m mmjax.main")
    return workdir


def losses_of(folder: Path) -> list[float]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [r["loss"] for r in map(json.loads, lines) if "loss" in r]


@pytest.mark.slow
def test_every_system_is_measured(finished):
    results = Results.load(finished / "results.json")
    beside = ["majority", "question", "probe_linear", "probe_mlp", "frozen", "blank"]
    assert list(results.systems) == [*beside, "lora", "rehearsed", "adapted"]
    assert results.counts == {"train": [12], "val": [2], "test": [4], "questions": [12]}
    # An epoch is 3 steps of 16 rows: 36 rows, and 12 that fill pictures up.
    visits = 36 * 13 + results.learned["visits"][0] % 36
    assert results.learned == {"rows": [36], "seen": [36], "visits": [visits]}
    assert "Trained on 36 of 36 rows, 13." in definition_of("instruct").tables(results)[0].caption
    accuracy, text = {"vqa_acc", "vqa_yes_no", "vqa_other"}, {"text_perplexity"}
    trained = {"lora", "rehearsed", "adapted"}
    for name, metrics in results.systems.items():
        assert set(metrics) == (
            text if name == "frozen" else accuracy | (text if name in trained else set())
        )
        assert 0 <= metrics.get("vqa_acc", [0])[0] <= 1
    answers, plain, router = definition_of("instruct").tables(results)
    assert "frozen language model" not in dict(answers.rows)
    assert list(dict(plain.rows)) == ["frozen language model", *(r[0] for r in answers.rows[-3:])]
    frozen, lora, rehearsed, adapted = (np.log(values[0][0]) for _, values in plain.rows)
    assert min(lora, adapted) > frozen > 0  # adapters cost what is read without a picture
    assert abs(rehearsed - frozen) < 0.5 * (adapted - frozen)  # rehearsed, it is kept
    assert [label for label, _ in answers.rows[-3:]] == [
        "LoRA, rank 4, language model only",
        "routed adapters, rank 4, 32 texts rehearsed",
        "routed adapters, rank 4",
    ]
    assert [label for label, _ in router.rows] == ["layer 1", "layer 2"]
    page = (finished / "report.html").read_text(encoding="utf-8")
    assert "What the router learned" in page
    losses = "picture_loss", "text_loss"
    for drawn in (*losses, "val/vqa_acc", "samples seen", "weight of the first expert"):
        assert drawn in page


@pytest.mark.slow
def test_the_loss_falls(finished):
    losses = losses_of(finished / "seed_0" / "instruct")
    assert len(losses) == 40
    assert sum(losses[-4:]) < 0.5 * sum(losses[:4])


@pytest.mark.slow
def test_what_is_trained_is_small_and_named(finished):
    params = (finished / "seed_0" / "instruct" / "params.txt").read_text()
    for part in ("language/router/kernel", "vision/up/kernel", "modality/embedding", "projection"):
        assert part in params
    assert "embed_tokens" not in params
    assert "modality" not in (finished / "seed_0" / "lora" / "params.txt").read_text()


@pytest.mark.slow
def test_the_adapter_answers_as_it_was_measured(finished, world):
    """Greedy decoding word by word, without the modality token, finds what `exact` counted."""
    adapted = mmjax.load_adapter(finished, kind=mmjax.Answering)
    measured = Results.load(finished / "results.json").systems
    asked = easy_vqa.load_easy_vqa(f"easy_vqa:{world / 'vqa'}", "test")
    images = [asked.images[q.image] for q in asked.questions]
    white = [Image.new("RGB", (64, 64), "white")] * len(images)
    for system, shown in (("adapted", images), ("blank", white)):
        found = adapted.answer([q.text for q in asked.questions], shown, max_new_tokens=4)
        right = [
            one.finished and one.text.strip() == q.answer
            for one, q in zip(found, asked.questions, strict=True)
        ]
        values = {m: mean for m, (mean,) in measured[system].items() if m.startswith("vqa")}
        assert accuracies(np.array(right), asked.questions) == pytest.approx(values)
    assert 0 < measured["adapted"]["vqa_acc"][0] < 1  # or nothing would have been compared
    assert len(adapted.answer(["w5 w6"], max_new_tokens=2)) == 1  # about no picture
    with pytest.raises(MmjaxError, match="1 pictures for 2 questions"):
        adapted.answer(["w5", "w6"], images[:1])
    with pytest.raises(MmjaxError, match="takes"):
        adapted.answer(["w5 " * 99], images[:1])


@pytest.mark.slow
def test_the_report_shows_answers_and_the_frozen_models_beside_them(finished, world):
    folder, main = finished, finished / "seed_0" / "instruct"
    rows = json.loads((main / "samples" / "answers.json").read_text())["rows"]
    assert len(rows) == COUNT
    assert {row["number"] // 3 for row in rows} == set(range(4))
    questions = json.loads((world / "vqa" / "test" / "questions.json").read_text())
    adapted = mmjax.load_adapter(folder, kind=mmjax.Answering)
    language = load_encoder(world / "language")
    assert isinstance(language, LanguageModel)
    for row in rows:
        question, wanted, picture = questions[row["number"]]
        assert question in row["question"]
        assert row["wanted"] == wanted
        image = world / "vqa" / "test" / "images" / f"{picture}.png"
        (said,) = adapted.answer([question], [image])
        assert row["adapted"] == said.text.strip()
        (alone,) = generate(language, [row["question"]], 16)
        assert row["frozen"] == alone.text.strip()
        with Image.open(main / "samples" / f"{row['number']}.png") as small:
            assert max(small.size) <= 160
    page = (folder / "report.html").read_text()
    assert page.count('<article class="sample') == COUNT
    (samples,) = read_samples(main)
    right = [row["adapted"] == row["wanted"] for row in rows]
    assert [example.good for example in samples.rows] == right
    for content in ("[]", '{"rows": [{}]}', "{", '{"rows": [{"number": "x"}]}'):
        (damaged := folder / "damaged" / "samples").mkdir(parents=True, exist_ok=True)
        (damaged / "answers.json").write_text(content)
        assert read_samples(damaged.parent) == ()


def test_exported_it_answers_the_same(finished, recipe, world, tmp_path):
    predict.export(study.plan(resolve_recipe(recipe), finished), tmp_path)
    # PEFT's own files, of the stage whose adapter PEFT has.
    assert not (tmp_path / "seed_0" / "instruct" / "peft").exists()
    layers = mmjax.load_encoder(str(world / "language")).params["layers"]
    _, theirs = import_lora(tmp_path / "seed_0" / "lora" / "peft", layers)
    mine, _ = load_adapter_params(tmp_path / "seed_0" / "lora")
    chex.assert_trees_all_equal(theirs, mine["language"])
    images = [world / "vqa" / "test" / "images" / f"{i}.png" for i in range(3)]
    folders = finished, tmp_path / "seed_0" / "instruct"
    one, other = (
        mmjax.load_adapter(f, kind=mmjax.Answering).answer([ASKED[0]] * 3, images, 4)
        for f in folders
    )
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a.log_probs, b.log_probs)


@pytest.mark.slow
def test_a_stopped_run_ends_with_the_same_bits(finished, recipe, tmp_path):
    workdir = shutil.copytree(finished, tmp_path / "run")
    (workdir / "results.json").unlink()
    folder = workdir / "seed_0" / "instruct"
    (folder / "done.json").unlink()
    shutil.rmtree(folder / "checkpoints" / "40")
    study.run(resolve_recipe(recipe), recipe, workdir, "test")
    one, other = (f / "seed_0" / "instruct" for f in (finished, workdir))
    assert losses_of(one) == losses_of(other)  # to the last digit, those after the stop too
    cards = [json.loads((f / "adapter" / "adapter_card.json").read_text()) for f in (one, other)]
    assert cards[0]["trainable"] == cards[1]["trainable"]
    assert Results.load(workdir / "results.json").systems == (
        Results.load(finished / "results.json").systems
    )


@pytest.mark.slow
def test_cached_class_tokens_give_the_same_loss(recipe, tmp_path, monkeypatch, mesh):
    monkeypatch.setenv("MMJAX_CACHE", str(tmp_path))
    losses = []
    for cached in (True, False):
        changes = {"variants": {}, "instruct.visual": False, "train.cache_features": cached}
        made = resolve_recipe(changed(recipe, changes))
        library = Library(mesh(1), made.languages)
        found: Any = assemble(Run(made, made.stages[0], 0, tmp_path), library)
        batch, key = found.data.example(16, 0), jax.random.key(0)
        whole = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), found.frozen)

        def loss(
            frozen: Any, batch: Any, task: Any = found.task, shapes: Any = whole, key: Any = key
        ) -> jax.Array:
            trainable = task.init(key, shapes, batch)
            return task.loss(trainable, frozen, batch, key)[0]

        # Without the vision transformer's weights, or as it is.
        frozen = {**found.frozen, "image": {}} if cached else found.frozen
        losses.append(float(jax.jit(loss)(frozen, batch)))
        asked = found.data.test["blank"].conversations
        blank = asked.batch(asked.plan(16, None)[0], 16)
        for given in (batch, blank):
            assert set(given["image"]) == {"class_tokens" if cached else "pixel_values"}
        (shown,), (white,) = (given["image"].values() for given in (batch, blank))
        assert np.ptp(white, axis=0).max() == 0  # one picture, always the same
        assert np.ptp(shown, axis=0).max() > 0
    assert_allclose(losses[0], losses[1], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train.batch_size": 18}, "a multiple of 4"),
        ({"train.batch_size": 8}, "4 pictures a step"),
        ({"train.select": "mR"}, "'vqa_acc' or 'none'"),
        ({"train.cache_features": True}, "False while adapters sit in the vision transformer"),
        ({"encoders.language.pictures": "imagenet_square"}, "'own' for what reads no pictures"),
        ({"encoders.image.pictures": "imagenet"}, "encoders.image.pictures"),
        ({"instruct.temperature": 0.0}, "instruct.temperature"),
        ({"instruct.feed_forward": "fc"}, "instruct.feed_forward"),
        (
            {"instruct.feed_forward": "vision", "instruct.visual": False},
            "'none' or 'language' with visual=False",
        ),
        (
            {"instruct.feed_forward": "language", "instruct.adapter": "lora"},
            "'none' with adapter='lora'",
        ),
        ({"instruct.taps": 3}, "3 taps of a vision transformer of 2 layers"),
        ({"evals": ("retrieval",)}, r"one of \['vqa', 'text', 'probe'\]"),
        ({"questions.text": "/nowhere.txt"}, "/nowhere.txt cannot be read"),
        ({"base": "runs/base"}, "expected None for this task"),
        ({"questions.source": "vqa2"}, "no questions are called 'vqa2'"),
        ({"questions.val_pictures": 14}, "14 of 14 pictures"),
    ],
)
def test_recipes_that_are_refused(changes, message, recipe, tmp_path):
    changes = {"variants": {}, **changes}
    with pytest.raises(MmjaxError, match=message):
        study.run(resolve_recipe(changed(recipe, changes)), recipe, tmp_path, "test")


def test_pictures_may_be_prepared_as_lavin_prepares_them(recipe, mesh):
    found = {}
    for pictures in ("own", "imagenet_square"):
        made = resolve_recipe(changed(recipe, {"encoders.image.pictures": pictures}))
        library = Library(mesh(1), made.languages)
        found[pictures] = library.encoder(made.stages[0].encoders["image"]).preprocess
    side = found["own"].crop
    wide = np.zeros((side, 3 * side, 3), np.uint8)
    wide[:, -side // 2 :] = 255  # lost where the centre is cut out
    own, square = (found[p]([wide])[0] for p in ("own", "imagenet_square"))
    assert np.ptp(own[..., 0]) == 0
    white, black = square[:, -1].mean(0), square[:, 0].mean(0)
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    assert_allclose(black, -mean / deviation, atol=1e-5)
    assert_allclose(white, (1 - mean) / deviation, atol=1e-5)


def test_encoders_of_the_wrong_kind_are_refused(recipe, world, write_folder, tmp_path):
    write_folder(tmp_path / "bert", "bert_tiny")
    changes = {"variants": {}, "encoders.language.source": str(tmp_path / "bert")}
    with pytest.raises(MmjaxError, match="needs a language model"):
        study.run(resolve_recipe(changed(recipe, changes)), recipe, tmp_path / "run", "test")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "questions.json").write_text("["), "cannot read .*questions.json"),
        (lambda f: (f / "questions.json").write_text("[]"), "no list of questions"),
        (lambda f: (f / "questions.json").write_text('[["w5", "w6"]]'), "row 0: expected"),
        (lambda f: (f / "questions.json").write_text('[["w5", " ", 0]]'), "row 0: an empty"),
        (lambda f: (f / "images" / "3.png").unlink(), "row 9: asks about picture 3"),
        (lambda f: shutil.copy(f / "images" / "3.png", f / "images" / "9.png"), "holds 5 pictures"),
    ],
)
def test_damaged_questions_are_named(damage, message, world, tmp_path):
    folder = shutil.copytree(world / "vqa", tmp_path / "vqa")
    damage(folder / "test")
    with pytest.raises(DataError, match=message):
        easy_vqa.load_easy_vqa(f"easy_vqa:{folder}", "test")
