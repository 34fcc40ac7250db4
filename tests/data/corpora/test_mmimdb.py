"""MM-IMDb's layout, small but true; and every way in which it can be wrong."""

import json

import pytest
from PIL import Image

from mmjax.data.corpora.catalog import load_corpus
from mmjax.errors import MmjaxError
from mmjax.specs.data import PairsSpec

# As the authors' files: more than one plot, genres beside those that count, other keys.
FILMS = {
    "0016780": (["Drama", "Romance"], ["A couple parts. ", "Another plot."]),
    "0023012": (["Comedy"], ["Two friends open a hat shop."]),
    "0047437": (["Comedy", "Drama"], ["It is both."]),
    "0058331": (["Horror"], []),
    "0061722": (["Drama"], ["A graduate drifts."]),
}
SPLIT = {"train": ["0016780", "0047437"], "dev": ["0023012"], "test": ["0058331", "0061722"]}


@pytest.fixture
def films(tmp_path):
    """Returns `films()`: reads what lies in the folder, which a test may spoil before."""
    (tmp_path / "dataset").mkdir()
    (tmp_path / "split.json").write_text(json.dumps(SPLIT))
    for name, (genres, plots) in FILMS.items():
        record = {"genres": genres, "plot": plots, "title": "A film", "rating": 7.1, "cast": []}
        (tmp_path / "dataset" / f"{name}.json").write_text(json.dumps(record))
        Image.new("RGB", (6, 9), "navy").save(tmp_path / "dataset" / f"{name}.jpeg")
    return lambda: load_corpus(PairsSpec(source=f"mmimdb:{tmp_path}"), ("en", "en"))


def test_dramas_and_comedies_become_items(films):
    corpus = films()
    assert [item.id for item in corpus.items] == ["0016780", "0023012", "0061722"]
    assert [item.label for item in corpus.items] == ["Drama", "Comedy", "Drama"]
    assert corpus.items[0].captions == {"en": ("A couple parts.",)}
    assert corpus.items[0].picture("poster").size == (6, 9)
    assert not any(item.side for item in corpus.items)
    assert corpus.labels == {"Drama": {"en": "drama"}, "Comedy": {"en": "comedy"}}


def test_another_plot_is_another_corpus(films, tmp_path):
    before = films().fingerprint
    path = tmp_path / "dataset" / "0061722.json"
    path.write_text(path.read_text().replace("drifts", "leaves"))
    assert films().fingerprint != before


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("split.json", "{", "cannot read .*split.json"),
        ("split.json", "[]", "split.json: expected a JSON object, found list"),
        ("split.json", json.dumps({"train": ["0016780"]}), "split.json: 'dev' is None; expected"),
        (
            "split.json",
            json.dumps(SPLIT | {"dev": ["0016780"]}),
            r"split.json: \['0016780'\] stand twice",
        ),
        (
            "split.json",
            json.dumps({"train": ["0058331"], "dev": [], "test": []}),
            "names no film that is one of",
        ),
        ("dataset/0023012.json", "{}", "0023012.json: 'genres' is None; expected a list"),
        (
            "dataset/0023012.json",
            json.dumps({"genres": ["Comedy"], "plot": [" "]}),
            "0023012.json: 'plot' is empty",
        ),
    ],
)
def test_a_bad_file_is_named(films, tmp_path, file, content, message):
    (tmp_path / file).write_text(content)
    with pytest.raises(MmjaxError, match=message):
        films()


def test_files_that_are_not_there(films, tmp_path):
    (tmp_path / "dataset" / "0016780.jpeg").unlink()
    with pytest.raises(MmjaxError, match=r"0016780.json: no poster at .*0016780.jpeg"):
        films()
    (tmp_path / "dataset" / "0016780.json").unlink()
    with pytest.raises(MmjaxError, match=r"cannot read .*0016780.json: .*No such file"):
        films()
