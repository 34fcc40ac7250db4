"""Any source in any form: nothing is lost on the way, or held, or left half written."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mmjax.data.turn_records import Record, read_records
from mmjax.errors import DataError
from mmjax.synthesis.formats import convert, iter_records, write
from tests.synthesis.samples import RECORDS

ROW = json.dumps({"image": "a.jpg", "caption": "A bus."})


@pytest.mark.parametrize("target", ["records:r.jsonl", "llava:l.json", "llava:l.jsonl"])
@pytest.mark.parametrize("again", ["sharegpt:s.json", "sharegpt:s.jsonl"])
def test_every_form_keeps_all_that_a_record_says(tmp_path, monkeypatch, target, again):
    monkeypatch.chdir(tmp_path)
    assert write(target, RECORDS) == 3
    assert list(iter_records(target)) == RECORDS
    assert convert(target, again, root="a/").records == 3
    assert list(iter_records(again, images="a")) == [
        Record(r.id, tuple(_joined(image) for image in r.images), r.turns, r.meta) for r in RECORDS
    ]
    convert(again, "records:back.jsonl", images="a")
    assert [r.id for r in read_records(Path("back.jsonl"))] == ["1", "2", "3"]


def _joined(image: str) -> str:
    """What stands outside the root keeps its name, and is joined to it when it is read."""
    return "a/elsewhere/w.jpg" if image == "elsewhere/w.jpg" else image


@pytest.mark.parametrize(
    ("target", "records", "sentence"),
    [
        ("llava:l.json", [], "llava:l.json: there are no records to write"),
        ("llava:l.json", [RECORDS[0], Record("4", ("x",), ())], "record '4' has no turns"),
        ("parquet:l", RECORDS, "'parquet:l' cannot be written; expected records:FILE.jsonl"),
        ("records:r.json", RECORDS, "'records:r.json' cannot be written"),
        ("l.json", RECORDS, "'l.json' cannot be written"),
    ],
)
def test_what_cannot_be_written_leaves_the_file_that_was_there(
    tmp_path, monkeypatch, target, records, sentence
):
    monkeypatch.chdir(tmp_path)
    Path("l.json").write_text("old")
    with pytest.raises(DataError, match=sentence):
        write(target, records)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"l.json": "old"}


def test_a_fault_on_the_way_leaves_no_half_of_a_file(tmp_path):
    (tmp_path / "p.jsonl").write_text(f"{ROW}\n{ROW[:-3]}")
    with pytest.raises(DataError, match="row 2"):
        convert(f"{tmp_path}/p.jsonl", f"llava:{tmp_path}/l.json")
    assert os.listdir(tmp_path) == ["p.jsonl"]


STREAM = """
import re, resource, sys
from mmjax.synthesis.formats import convert

def peak():
    if sys.platform != "linux":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    with open("/proc/self/status") as file:  # rusage begins with what the parent took
        return int(re.search(r"VmHWM:\\s+(\\d+)", file.read())[1])

source, target, lines = sys.argv[1:]
with open(source, "w") as file:
    file.write("image,caption,id\\n")
    for i in range(int(lines)):
        file.write(f'{i}.jpg,"{"a caption of a picture " * 8}{i}",{i}\\n')
before = peak()
assert convert(source, target).records == int(lines)
print("grown", peak() - before, "KiB")
"""


def test_a_hundred_thousand_records_pass_through_and_are_not_held(tmp_path):
    # All records would take 100 MiB; their ids alone take some ten.
    command = [sys.executable, "-c", STREAM, f"{tmp_path}/p.csv", f"llava:{tmp_path}/l.json"]
    done = subprocess.run([*command, "100000"], capture_output=True, text=True, check=True)
    grown = re.search(r"grown (\d+) KiB", done.stdout)
    assert grown is not None
    assert int(grown[1]) < 40_000
    assert (tmp_path / "l.json").stat().st_size > 20_000_000
