"""Recipes that are written for awkward data: the right task, sizes and rows, and they train."""

import json
from pathlib import Path
from typing import Any

import pytest

from mmjax import study
from mmjax.commands import cli, new, recipes
from mmjax.errors import MmjaxError
from mmjax.inspection.sizes import schedule
from mmjax.inspection.written import recipe_file
from mmjax.report.results import Results
from mmjax.specs.build import as_dict
from mmjax.specs.recipe import Recipe, resolve_recipe


def make(data: Path, task: str, folder: Path, *more: str) -> Recipe:
    """The recipe that `mmjax new` writes."""
    assert new.main([task, "--data", str(data), "--out", str(folder), *more]) == 0
    name = new.name_for(str(data), task)
    return resolve_recipe(as_dict(recipes.load_recipe(str(folder / f"{name}.py"), {})))


def mended(folder: Path) -> list[dict[str, Any]]:
    (path,) = folder.glob("*.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rows_beside_the_test_that_show_what_it_shows_are_left_out(leaky, tmp_path, capsys):
    recipe = make(leaky, "language", tmp_path, "--language", "de")
    rows = mended(tmp_path)
    assert len(rows) == 40
    assert not {"same.png", "bright.png"} & {row["id"] for row in rows}
    assert {(tmp_path / row["image"]).resolve() for row in rows} == {
        leaky.parent / f"{i}.png" for i in range(40)
    }
    assert recipe.languages == ("de", "en")
    assert [stage.name for stage in recipe.stages] == ["base", "linear", "language"]
    assert recipe.main.pairs.source == str(tmp_path / "leaky_language.jsonl")
    assert recipe.main.train.batch_size == 8  # of 29 that are trained on
    assert recipe.main.adapter.kind == "mlp"  # too few for a transformer
    assert recipe.main.encoders["foreign"].max_length in range(8, 24)
    assert recipe.evals == ("retrieval",)
    told = capsys.readouterr().out
    assert "left out: 2 rows beside the test whose picture it has too" in told
    assert f"mmjax train {tmp_path / 'leaky_language.py'}:tiny" in told


def test_classes_too_rare_to_split_and_pictures_that_are_broken_are_left_out(uneven, tmp_path):
    recipe = make(uneven, "prompts", tmp_path)
    rows = mended(tmp_path)
    assert {row["label"] for row in rows} == {"rose", "tulip", "lily"}
    assert len(rows) == 45 + 14 + 4
    assert recipe.main.fewshot.shots == 2  # lilies that are trained on, as a power of two
    assert recipe.main.pairs.stratify
    assert recipe.languages == ("en", "en")
    base = recipe.stages[0]
    assert (base.name, base.pairs.source) == ("base", "emoji")
    assert {s.name for s in recipe.stages} >= {"linear_probe", "tip_adapter", "clap"}
    clip = ["--encoder", "image=hf:org/clip", "--encoder", "text=hf:org/clip", "--force"]
    on_clip = make(uneven, "prompts", tmp_path, *clip)
    assert [s.task for s in on_clip.stages] == ["prompts"] * len(on_clip.stages)
    assert on_clip.main.encoders["image"].output == "pooled"


def test_texts_under_a_wrong_name_are_no_language(mixed_up, tmp_path, capsys):
    with pytest.raises(
        MmjaxError, match=r"no texts in 'zh', .* columns of text are \['en', 'de'\]"
    ):
        make(mixed_up, "language", tmp_path, "--language", "zh")
    recipe = make(mixed_up, "contrastive", tmp_path, "--known", "de")
    assert "error: 'en' is in 'de', it seems, not in 'en'" in capsys.readouterr().out
    assert recipe.languages[1] == "de"
    assert len(mended(tmp_path)) == 33  # one torn, one without picture, one without text


def test_shards_are_read_as_they_are_where_nothing_is_wrong(shards, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MMJAX_CACHE", str(tmp_path / "cache"))
    recipe = make(shards, "contrastive", tmp_path)
    assert recipe.main.pairs.source == str(shards)
    assert not list(tmp_path.glob("*.jsonl"))
    assert recipe.main.encoders["image"].image_size == 112  # for small pictures
    assert "most texts are shared by several pictures" in capsys.readouterr().out
    with pytest.raises(
        MmjaxError, match=r"has 0 classes, of which 'projection' needs two .* fits 'con"
    ):
        make(shards, "projection", tmp_path)


def test_scarce_data_is_tested_in_folds_with_doubles_kept_together(scarce, tmp_path):
    recipe = make(scarce, "projection", tmp_path)
    assert (recipe.main.pairs.folds, recipe.seeds) == (5, (0, 1, 2, 3, 4))
    assert set(recipe.main.encoders) == {"image"}
    families = {row["id"]: row.get("family") for row in mended(tmp_path)}
    assert families["0.png"] == families["13.png"] == "0.png"
    assert families["1.png"] is None


def test_parallel_text_stands_on_emoji(tmp_path):
    path = tmp_path / "sentences.tsv"
    lines = [f"ein roter Apfel {i}\ta red apple {i}" for i in range(400)]
    path.write_text("source\ttarget\n" + "\n".join(lines) + "\n")
    recipe = make(path, "language", tmp_path, "--language", "de")
    assert recipe.main.parallel.sources == (str(path),)
    assert recipe.main.parallel.val_pairs == 40
    assert recipe.main.pairs.source == "emoji"


@pytest.fixture(scope="module")
def tiny_encoders(tmp_path_factory, write_folder) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("encoders")
    for role, kind in (("text", "bert_tiny"), ("foreign", "bert_tiny"), ("image", "dinov2_tiny")):
        write_folder(folder / role, kind)
    return {role: folder / role for role in ("text", "foreign", "image")}


def test_a_written_recipe_trains(leaky, tiny_encoders, tmp_path, monkeypatch, on_one_device):
    monkeypatch.setenv("MMJAX_CACHE", str(tmp_path / "cache"))
    chosen = [w for r, path in tiny_encoders.items() for w in ("--encoder", f"{r}={path}")]
    make(leaky, "language", tmp_path, "--language", "de", *chosen)
    quick = {"variants": {}, "train.steps": 2, "base.train.steps": 2}
    config = as_dict(recipes.load_recipe(f"{tmp_path / 'leaky_language.py'}:tiny", quick))
    on_one_device(monkeypatch)
    study.run(resolve_recipe(config), config, tmp_path / "run", "test")
    results = Results.load(tmp_path / "run" / "results.json")
    assert {"ceiling", "floor", "adapted"} <= set(results.systems)
    assert results.counts["test"] == [8]  # the table's own split
    page = (tmp_path / "run" / "report.html").read_text()
    assert "<h1>leaky language</h1>" in page
    assert "<figcaption>loss of base</figcaption>" in page
    assert "<figcaption>loss of language</figcaption>" in page


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ["--encoder", "image"],
            "--encoder 'image' is no ROLE=SOURCE; roles are image, text, foreign",
        ),
        (["--name", "a/b"], "--name"),
    ],
)
def test_what_cannot_be_made(leaky, tmp_path, more, message):
    with pytest.raises(MmjaxError, match=message):
        make(leaky, "contrastive", tmp_path, *more)


def test_a_recipe_that_is_there_is_not_replaced(leaky, tmp_path):
    (tmp_path / "leaky_contrastive.py").write_text("mine")
    with pytest.raises(MmjaxError, match="is there already; give another --name, or --force"):
        make(leaky, "contrastive", tmp_path)
    assert (tmp_path / "leaky_contrastive.py").read_text() == "mine"


@pytest.mark.parametrize(("examples", "batch"), [(9, 4), (64, 32), (100, 32), (5000, 512)])
def test_a_batch_is_half_of_the_examples_at_most(examples, batch):
    loop = schedule(examples, epochs=10)
    assert loop.batch_size == batch
    assert 1 <= loop.eval_every <= loop.steps


def test_texts_of_the_user_stay_texts_in_the_file(tmp_path):
    odd = 'a "quoted" \\ folder\'s """name"""'
    path = tmp_path / "odd.py"
    path.write_text(
        recipe_file(odd, [odd], {"name": odd, "base": {"pairs": None, "x": (1,)}}, {"base.x": (2,)})
    )
    assert recipes.load_recipe(str(path), {}).name == odd
    tiny: Any = recipes.load_recipe(f"{path}:tiny", {})
    assert tiny.base.x == (2,)


def test_the_console_script_knows_it(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["mmjax", "new", "language", "--data", "nowhere.csv"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith("error: cannot read nowhere.csv")
