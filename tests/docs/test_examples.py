"""The site's example files are read as they stand, and say what its pages say of them."""

import re
from pathlib import Path

import pytest

from mmjax.commands import check, new
from mmjax.data.corpora.catalog import load_corpus, load_parallel
from mmjax.data.dialogues import read_rows
from mmjax.specs.data import PairsSpec
from mmjax.synthesis.pairs import read_pairs
from tools import site_pages

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLES = DOCS / "examples"
PAGES = sorted(DOCS.rglob("*.md"))


@pytest.mark.parametrize(
    ("source", "languages", "captions"),
    [
        (f"{EXAMPLES}/captions.jsonl", ("de", "en"), "ein roter Ball"),
        (f"{EXAMPLES}/captions.csv", ("de", "en"), "ein roter Ball"),
        (f"folder:{EXAMPLES}/classes", ("en", "en"), "green"),
        (f"{EXAMPLES}/shard.tar", ("en", "en"), "a red ball"),
        (f"{EXAMPLES}/train.parquet", ("en", "en"), "red"),
        (f"folder:{EXAMPLES}/imagefolder", ("en", "en"), "a red ball"),
    ],
)
def test_pictures_with_captions(source, languages, captions, tmp_path, monkeypatch):
    monkeypatch.setenv("MMJAX_CACHE", str(tmp_path))
    corpus = load_corpus(PairsSpec(source=source), languages)
    assert len(corpus.items) == 4
    assert corpus.items[0].captions[languages[0]][0] == captions
    assert corpus.items[0].picture("photo").size == (32, 32)


def test_the_table_says_sides_families_and_keywords():
    corpus = load_corpus(PairsSpec(source=f"{EXAMPLES}/captions.csv"), ("de", "en"))
    first = corpus.items[0]
    assert (first.side, first.family, first.label) == ("train", "ball", "red")
    assert first.captions["en"] == ("a red ball", "red", "round")


def test_texts_and_instructions():
    assert len(load_parallel(f"{EXAMPLES}/parallel.tsv", 0)) == 4
    assert {"id", "conversations"} <= set(read_rows(EXAMPLES / "llava.json")[0])
    assert {"instruction", "output"} <= set(read_rows(EXAMPLES / "alpaca.json")[0])


def test_the_examples_may_be_looked_over_and_synthesized_from(capsys, tmp_path):
    assert check.main([str(EXAMPLES / "captions.jsonl")]) == 0
    assert "classes           2, 2" in capsys.readouterr().out
    rows = "".join(f"photos/{i}.png,caption {i}\n" for i in (1, 2))
    (tmp_path / "two.csv").write_text("image,caption\n" + rows)
    records = list(read_pairs(str(tmp_path / "two.csv"), images=str(EXAMPLES), check_images=True))
    assert [record.turns[-1].text for record in records] == ["caption 1", "caption 2"]


def test_every_command_on_the_pages_is_one(tmp_path):
    from mmjax.commands import cli, recipes

    found = [
        (page, words.split())
        for page in PAGES
        for block in re.findall(r"^```\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
        for words in re.findall(r"^mmjax ((?:[^\n\\#]|\\\n)+)", block, re.MULTILINE)
    ]
    assert len(found) > 20
    known = recipes.names()
    for page, (command, *rest) in found:
        assert command in cli.COMMANDS, page
        if command in ("train", "plan", "synthesize") and not rest[0].startswith(
            ("photos_", "pairs_", "my_")
        ):
            assert rest[0].partition(":")[0] in known, (page, rest[0])
        if command == "new":
            new.parser().parse_args([word for word in rest if word != "\\"])


def test_pages_that_are_made_say_what_the_code_says():
    settings = site_pages.settings()
    for said in (
        "## pairs.domain",
        "## optim",
        "| `lr` | float",
        "| `batch_size` | int >= 1 | `512` |",
    ):
        assert said in settings
    assert "the path of a .jsonl, .csv, .tsv, .tar or .parquet file" in settings
    lacking = re.findall(r"^\| `\w+` \|.*\|\s*\|$", settings, re.MULTILINE)
    assert len(lacking) <= 3, lacking  # settings that nothing is said of
    adapters = site_pages.adapters()
    assert "## lora\n" in adapters
    assert "| `rank` | int" in adapters
    rows = [line.split(" | ") for line in site_pages.encoders().splitlines() if line[:3] == "| `"]
    assert {len(row) for row in rows} == {8}
    (qwen,) = (row for row in rows if row[0] == "| `qwen2_vl`")
    assert qwen[2:4] == ["texts about pictures", ""]
    assert qwen[4:7] == ["qwen2-vl-2b-instruct", "torch", "in both towers"]
    assert {row[5] for row in rows if "registers" in row[0]} == {"golden, torch"}
    assert "## language_emoji" in site_pages.recipe_table()
    assert "usage: mmjax check" in site_pages.commands()


def test_every_page_is_in_the_navigation_and_every_link_inside_leads_somewhere():
    text = (DOCS.parent / "mkdocs.yml").read_text()
    listed = set(re.findall(r": ([\w/]+\.md)$", text, re.MULTILINE))
    there = {path.relative_to(DOCS).as_posix() for path in PAGES} | set(site_pages.PAGES)
    there |= {f"notebooks/{path.stem}.md" for path in site_pages.NOTEBOOKS.glob("*.ipynb")}
    assert listed == there
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
            place = (page.parent / target).resolve()
            made = (
                place.is_relative_to(DOCS)
                and place.relative_to(DOCS).as_posix() in site_pages.PAGES
            )
            assert place.exists() or made, f"{page}: {target}"
