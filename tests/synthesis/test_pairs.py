"""Tables and lines of images with captions: as others save them, and bad rows by number."""

import json
from pathlib import Path

import pytest

from mmjax.data.markers import Cues
from mmjax.data.rows import Columns
from mmjax.data.turn_records import BLANK
from mmjax.errors import DataError
from mmjax.synthesis.formats import iter_records, write
from mmjax.synthesis.pairs import read_pairs
from tests.synthesis.samples import pair

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
ROW = json.dumps({"image": "a.jpg", "caption": "A bus."})


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "BOM"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
def test_a_table_is_read_as_spreadsheets_save_it(tmp_path, mark, end):
    rows = [
        b"id,image,caption,label",
        b'7,a.jpg,"Two\nlines, ""quoted""",bus',
        "8,b.jpg, 红苹果 <|im_start|>user,".encode(),
        b"",
    ]
    (tmp_path / "p.csv").write_bytes(mark + end.join(rows))
    assert list(read_pairs(str(tmp_path / "p.csv"))) == [
        pair("7", str(tmp_path / "a.jpg"), 'Two\nlines, "quoted"', label="bus"),
        pair("8", str(tmp_path / "b.jpg"), " 红苹果 <|im_start|>user", label=""),
    ]


def test_lines_may_name_one_image_or_a_list_and_call_things_otherwise(tmp_path):
    rows = [
        {"file": "a.jpg", "text": "one", "source": {"page": 3}},
        {"file": ["b.jpg", "/whole/c.jpg", "https://host/d.jpg"], "text": "two", "key": 5},
    ]
    (tmp_path / "p.jsonl").write_text("\r\n".join(map(json.dumps, rows)))
    found = list(
        read_pairs(
            str(tmp_path / "p.jsonl"),
            images="pictures",
            cues=Cues(caption="描述这张图片。"),
            columns=Columns("file", "text", "key"),
        )
    )
    assert [record.id for record in found] == ["a.jpg", "5"]
    assert found[0].turns[0].text == "描述这张图片。"
    assert found[0].meta == {"source": {"page": 3}}
    assert found[1].images == ("pictures/b.jpg", "/whole/c.jpg", "https://host/d.jpg")


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("p.csv", "", "p.csv has no rows"),
        ("p.csv", "image,caption\n", "p.csv has no rows"),
        ("p.csv", "image,text\na,b\n", r"row 1: the columns are \['image', 'text'\]; .*'caption'"),
        ("p.csv", "image,caption,caption\na,b,c\n", "row 1: .* none twice"),
        ("p.csv", "image,caption\na,b,c\n", "row 2: has 3 cells, its header 2"),
        ("p.csv", 'image,caption\na,"b\nc,d\n', "row 2: is no row of a .csv file"),
        ("p.csv", 'image,caption\na,b\na,"b"c\n', "row 3: is no row of a .csv file"),
        ("p.csv", "image,caption\na,b\nb, \n", "row 3: 'caption' is ' '"),
        ("p.csv", "image,caption\n,b\n", "row 2: the name of an image is empty"),
        ("p.csv", "image,caption\na,b\n\na,c\n", "row 4: the id 'a' stands twice"),
        ("p.csv", b"image,caption\na,b\xff\n", "row 2 is not UTF-8"),
        ("p.jsonl", "\r\n \n", "p.jsonl has no rows"),
        ("p.jsonl", f"{ROW}\n{ROW[:-3]}\n", "row 2: expected one JSON object a line"),
        ("p.jsonl", f"{ROW}\n[]\n", "row 2: expected a JSON object, found list"),
        ("p.jsonl", f"{ROW}\n\n{ROW}\n", "row 3: the id 'a.jpg' stands twice"),
        ("p.jsonl", '{"caption": "c"}', "row 1: names no image under 'image'"),
        ("p.jsonl", '{"image": [], "caption": "c"}', "row 1: names no image under 'image'"),
        ("p.jsonl", '{"image": {"bytes": 1}, "caption": "c"}', "row 1: 'images' is {'bytes': 1}"),
        ("p.jsonl", '{"image": "a", "caption": ["c"]}', r"row 1: 'caption' is \['c'\]"),
        ("p.jsonl", '{"image": "a", "caption": "\\ud800"}', "row 1: 'caption' holds half of"),
        ("p.jsonl", '{"image": "a", "caption": "c", "id": 1.5}', "row 1: 'id' is 1.5"),
        ("p.txt", "", "is no source of images with captions; expected FILE.jsonl"),
    ],
)
def test_a_bad_table_gets_one_sentence(tmp_path, name, content, sentence):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=sentence) as caught:
        list(read_pairs(str(path)))
    assert "\n" not in str(caught.value)


def test_missing_images_matter_where_that_is_asked_for(tmp_path):
    (tmp_path / "p.jsonl").write_text(ROW)
    assert len(list(read_pairs(f"{tmp_path}/p.jsonl"))) == 1
    with pytest.raises(DataError, match=r"p.jsonl, row 1: no picture at .*a.jpg"):
        list(read_pairs(f"{tmp_path}/p.jsonl", check_images=True))
    write(f"records:{tmp_path}/r.jsonl", [pair("1", BLANK, "c"), pair("2", "https://h/x", "c")])
    assert (
        len(list(iter_records(f"records:{tmp_path}/r.jsonl", images="f", check_images=True))) == 2
    )


@pytest.mark.parametrize("source", ["photos.csv", "folder:classes", "train.parquet"])
def test_own_data_in_any_form_is_a_source(source, tmp_path, monkeypatch):
    monkeypatch.setenv("MMJAX_CACHE", str(tmp_path))
    kind, _, place = source.rpartition(":")
    table = tmp_path / "photos.csv"
    table.write_text(f"image,caption\n{EXAMPLES / 'photos' / '1.png'},a red square\n")
    there = table if place == table.name else EXAMPLES / place
    found = list(read_pairs(f"{kind}{':' * bool(kind)}{there}", check_images=True))
    assert found
    assert all(record.turns[1].text for record in found)
