import json
import math
import re
import tracemalloc
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from mmjax.errors import DataError
from mmjax.report.page import Table
from mmjax.synthesis.judged import (
    Judged,
    keep,
    precision_by_keep_rate,
    precision_table,
    read_judged,
    threshold_table,
)
from mmjax.synthesis.quality import read_quality
from mmjax.synthesis.report import write_report
from mmjax.synthesis.variety import YES_NO, Draw, distinct, even_kinds, kind_of

NASTY = "<script>alert(1)</script> <|im_end|>\n<|im_start|>user | `x` [a](b) \ud800"
ARABIC = "تفاحة حمراء"


def _write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _audit_row(i, **changes):
    margin = 4 - i * 0.5
    row = {
        "id": f"r{i}",
        "number": 0,
        "image": "red.png",
        "caption": f"caption {i}",
        "question": ("What is this?", "Is it red?", "How many legs?", "这是什么")[i % 4],
        "precise": "red",
        "informative": "It looks red.",
        "scores": {"yes": -0.1, "no": -3.0, "open": -4.0},
        "margin": margin,
        "label": "yes" if margin >= 0 else "no",
        "keep": margin >= 1,
        "why": "kept" if margin >= 1 else "margin below 1",
        "right": i % 5 != 4,
    }
    return row | changes


def synthesis_folder(path, audit=None):
    """A run of 20 records: 18 with a task each, 7 of which are kept."""
    path.mkdir(exist_ok=True)
    Image.new("RGB", (300, 20), "red").save(path / "red.png")
    rows = [_audit_row(i) for i in range(18)] if audit is None else audit
    tasks = {row["id"]: {k: row[k] for k in ("question", "precise", "informative")} for row in rows}
    pairs = [
        {"id": f"r{i}", "images": ["red.png"], "turns": [], "meta": {"truth": "red"}}
        for i in range(20)
    ]
    _write(path / "pairs.jsonl", pairs)
    generated = [
        pair
        | {
            "meta": {
                "triplets": [tasks[pair["id"]]] if pair["id"] in tasks else [],
                "raw": f"raw of {pair['id']}",
                "finished": pair["id"] != "r19",
            }
        }
        for pair in pairs
    ]
    _write(path / "generated.jsonl", generated)
    _write(path / "audit.jsonl", rows)
    kept = {row["id"] for row in rows if row["keep"]}
    made = {"caption": "first", "tasks": [{"number": 0, "branch": "chain", "template": 3}]}
    composed = [
        pair | {"meta": {"composed": made if pair["id"] in kept else {"caption": "alone"}}}
        for pair in pairs
    ]
    _write(path / "composed.jsonl", composed)
    failed = {"id": "r18", "step": "generate", "error": "picture 0 is empty", "tries": 3}
    _write(path / "failed.jsonl", [failed])
    summary = {
        "command": "python -m mmjax.synthesize --config x.py",
        "seconds": {"generate": 75.0},
        "settings": {"filter": {"threshold": 1.0}},
    }
    (path / "summary.json").write_text(json.dumps(summary))
    return path


class _Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def find(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def _read(paths):
    html, markdown = (path.read_text(encoding="utf-8") for path in paths)
    return _Page(html), html, markdown


def _cells(markdown, label):
    (line,) = [row for row in markdown.splitlines() if re.match(rf"\| \**{label}\** \|", row)]
    return [cell.strip(" *") for cell in line.strip("|").split("|")[1:]]


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = synthesis_folder(tmp_path_factory.mktemp("run"))
    return _read(write_report(folder))


def test_counts_of_every_step_are_those_of_the_files(pages):
    markdown = pages[2]
    for label, cells in {
        "records read": ["20", "–"],
        "generated: records with tasks": ["18", "90.0%"],
        "generated: records without, not parsed": ["2", "10.0%"],
        "generated: texts that were cut off": ["1", "5.0%"],
        "filtered: tasks kept": ["7", "38.9%"],
        "filtered: tasks labelled yes": ["9", "50.0%"],
        "filtered: dropped, margin below 1": ["11", "61.1%"],
        "composed: caption alone": ["13", "65.0%"],
        "composed: caption, then tasks": ["7", "35.0%"],
        "failed: generate": ["1", "5.0%"],
        "chain": ["7", "100.0%", "1", "100.0%"],
    }.items():
        assert _cells(markdown, label) == cells, label


def test_both_pages_show_curves_truth_samples_settings_and_the_command(pages):
    page, html, markdown = pages
    plots = re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL)
    assert len(plots) == 4
    assert "stroke-dasharray" in plots[0]  # the threshold that was used
    for text in (page.text, markdown):
        for expected in (
            "used: 1.00",
            "Precision by keep rate",
            "python -m mmjax.synthesize --config x.py",
            "filter.threshold",
            "1 min 15 s",
            "picture 0 is empty",
            "kept, right",
            "dropped, wrong",
            "The truth of 18 of 18 tasks is known",
            "raw of r19",
            "cut off",
            "margin -0.50, margin below 1",
            YES_NO,
        ):
            assert expected in text, expected
    # 7 kept, 11 dropped and 2 unread ones, each with its picture in the page itself.
    sources = [attrs["src"] for attrs in page.find("img")]
    assert len(sources) == 20
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert len(html) < 300_000


def test_nothing_that_a_caption_holds_is_obeyed(tmp_path):
    rows = [
        _audit_row(0, caption=NASTY, question=NASTY, informative=NASTY, why=NASTY, label=NASTY),
        _audit_row(9, question=ARABIC, precise="x" * 50_000, label=f"\u202e{ARABIC}"),
    ]
    page, html, markdown = _read(write_report(synthesis_folder(tmp_path, rows)))
    assert not page.find("script")
    assert not page.find("a")
    assert "<script>alert(1)</script> <|im_end|>" in page.text
    assert "<script>" not in markdown.replace("\\<", "")
    # Right-to-left texts are laid out as such, each on its own.
    titles = [attrs for attrs in page.find("h3") if attrs]
    assert titles
    assert all(attrs == {"dir": "auto"} for attrs in [*titles, *page.find("dd")[-3:]])
    assert len(html) < 200_000  # the long answer is cut


def test_a_picture_that_is_not_there_is_told(tmp_path):
    told = {
        "gone.png": "(PATH) cannot be read: No such file",
        "broken.png": "(PATH) cannot be read: cannot identify",
        "https://example.org/x.png": "not fetched: https://example.org/x.png",
        "blank:": "a blank picture",
        "": "no picture",
        "red.png\0": "cannot be read",
    }
    folder = synthesis_folder(
        tmp_path, [_audit_row(i, image=image) for i, image in enumerate(told)]
    )
    (folder / "broken.png").write_bytes(b"no picture at all")
    page, _, markdown = _read(write_report(folder))
    for image, sentence in told.items():
        expected = sentence.replace("PATH", str(folder / image))
        assert expected in page.text
        assert expected in markdown.replace("\\", "")
    assert len(page.find("img")) == 6  # of records without tasks


def test_files_that_lack_are_named(tmp_path):
    folder = synthesis_folder(tmp_path)
    assert read_quality(folder).missing == []
    for path in sorted(folder.glob("*.json*")):
        content = path.read_bytes()
        path.unlink()
        # Nothing failed where failed.jsonl lacks.
        assert read_quality(folder).missing == [path.name] * (path.name != "failed.jsonl")
        path.write_bytes(content)


def test_an_empty_folder_has_a_report(tmp_path):
    page, _, markdown = _read(write_report(tmp_path))
    assert markdown.count("is not there") == 5
    assert not page.find("svg")


def test_no_task_and_none_kept_are_said(tmp_path):
    _, html, markdown = _read(write_report(synthesis_folder(tmp_path, [])))
    assert "No text held a whole task" in markdown
    assert "<svg" not in html
    dropped = [_audit_row(i, keep=False) for i in range(3)]
    _, _, markdown = _read(write_report(synthesis_folder(tmp_path, dropped)))
    assert "The filter kept no task" in markdown
    assert "used:" not in markdown
    for name in ("pairs", "generated", "audit", "composed"):
        (tmp_path / f"{name}.jsonl").write_text("")
    assert "has no records" in _read(write_report(tmp_path))[2]


def test_tasks_without_margin_or_truth_have_no_curve_and_it_is_said(tmp_path):
    rows = [_audit_row(i, margin=None, scores=None, right=None) for i in range(4)]
    _, html, markdown = _read(write_report(synthesis_folder(tmp_path, rows)))
    assert html.count("<svg") == 1  # lengths
    assert "4 tasks have no margin" in markdown
    assert "No metadata says which answers are right" in markdown
    assert "Precision by keep rate" not in markdown


def test_duplicates_are_counted_together_whosever_they_are(tmp_path):
    rows = [_audit_row(i, keep=False, why=f"near-duplicate of r{i + 9}") for i in range(3)]
    rows += [_audit_row(3, keep=False, why="duplicate of r1")]
    found = read_quality(synthesis_folder(tmp_path, rows))
    assert found.dropped == {"near-duplicate": 3, "duplicate": 1}


def test_a_damaged_row_is_named(tmp_path):
    folder = synthesis_folder(tmp_path)
    with (folder / "audit.jsonl").open("a") as file:
        file.write('{"id": "r18", "keep"')
    with pytest.raises(DataError, match=r"audit\.jsonl, row 19"):
        write_report(folder)
    assert not list(folder.glob("synthesis.*"))


def test_same_files_give_the_same_bytes_in_any_order_of_rows(tmp_path):
    rows = [_audit_row(i, question=f"What is {i}?") for i in range(60)]
    folder = synthesis_folder(tmp_path, rows)
    first = [path.read_bytes() for path in write_report(folder)]
    assert [path.read_bytes() for path in write_report(folder)] == first
    other = read_quality(synthesis_folder(tmp_path, rows[::-1])).samples
    synthesis_folder(tmp_path, rows)
    assert read_quality(folder).samples == other
    assert read_quality(folder, seed=1).samples["kept"] != other["kept"]


def test_memory_stays_bounded_over_many_rows(tmp_path):
    line = json.dumps(_audit_row(0, informative="wide " * 12_000, id="ID")) + "\n"
    with (tmp_path / "audit.jsonl").open("w") as file:
        for i in range(400):
            file.write(line.replace("ID", str(i)))
    tracemalloc.start()
    found = read_quality(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.counts["audited"] == 400
    assert peak < 6 << 20  # the file has 24 MB, the examples 1.5


def _judged(margins, right, kept=None):
    margins = np.array(margins, float)
    kept = margins >= 0 if kept is None else np.array(kept)
    return Judged(margins, kept, np.array(right, float), ("yes",) * len(margins))


def test_precision_by_keep_rate_equals_counting():
    random = np.random.default_rng(0)
    margins, right = random.normal(size=200).round(1), random.integers(0, 2, 200).astype(float)
    margins[:20], right[10:40] = np.nan, np.nan
    rows = precision_by_keep_rate(_judged(margins, right))
    known = [(m, r) for m, r in zip(margins, right, strict=True) if m == m and r == r]
    assert [rate for rate, _ in rows] == pytest.approx(np.arange(1, 11) / 10)
    for rate, found in rows:
        best = sorted((m for m, _ in known), reverse=True)
        threshold = best[round(rate * len(best)) - 1]
        kept = [r for m, r in known if m >= threshold]
        assert found.threshold == threshold
        assert found.kept == len(kept)
        assert found.rate == pytest.approx(len(kept) / len(known))
        assert found.precision == pytest.approx(sum(kept) / len(kept))
        assert found.recall == pytest.approx(sum(kept) / sum(r for _, r in known))
    assert rows[-1][1].recall == 1


def test_keep_rate_falls_as_the_threshold_rises():
    judged = _judged(np.random.default_rng(1).normal(size=99), [math.nan] * 99)
    rates = [row.rate for row in keep(judged, np.linspace(-3, 3, 30).tolist())]
    assert rates == sorted(rates, reverse=True)
    (edge,) = keep(_judged([1.0, 0.5, 0.5], [1, 1, 0]), [0.5])
    assert (edge.kept, edge.precision) == (3, pytest.approx(2 / 3))  # a margin at it is kept
    (none,) = keep(_judged([1.0], [1]), [2.0])
    assert (none.kept, math.isnan(none.precision)) == (0, True)


def test_tables_hold_one_value_a_seed():
    audits = [_judged([2, 1, -1, -2], [1, 1, 0, 0]), _judged([2, 1, -1, -2], [1, 0, 1, 0])]
    table = precision_table(audits)
    assert isinstance(table, Table)
    rows = dict(table.rows)
    assert rows["50%"][2] == (1.0, 0.5)
    assert rows["100%"][2] == (0.5, 0.5)
    assert "2 seeds" in table.note()
    by_threshold = threshold_table(audits)
    assert by_threshold is not None
    assert dict(by_threshold.rows)["used: 1.00"][2] == (1.0, 0.5)
    assert precision_table([_judged([1.0], [math.nan])]) is None
    assert threshold_table([_judged([math.nan], [1])]) is None


@pytest.mark.parametrize("margins", [[0.0], [1e-9, 2e-9], [-1e3, 1e3], [5.0, 5.0]])
def test_thresholds_are_few_and_round_whatever_the_margins(margins):
    table = threshold_table([_judged(margins, [1] * len(margins))])
    assert table is not None
    assert 1 <= len(table.rows) <= 12


def test_judged_is_read_from_a_file_and_what_lacks_is_unknown(tmp_path):
    rows = [_audit_row(0), {"id": "x"}, _audit_row(17, right=None, margin=True)]
    _write(tmp_path / "audit.jsonl", rows)
    found = read_judged(tmp_path / "audit.jsonl")
    np.testing.assert_equal(found.margins, [4.0, math.nan, math.nan])
    np.testing.assert_equal(found.right, [1.0, math.nan, math.nan])
    assert found.kept.tolist() == [True, False, False]
    assert found.labels == ("yes", "", "no")


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        ("What color is it?", "what"),
        ("HOW MANY legs?", "how many"),
        ("How was it made?", "how"),
        ("Does it fly?", YES_NO),
        ("¿Qué es esto?", "qué"),
        ("ما هذا؟", "ما"),
        ("这是什么?", "这"),
        ("?", ""),
    ],
)
def test_kind_of_question(question, kind):
    assert kind_of(question) == kind


def test_variety():
    assert distinct(["a b a b", "a b"], 1) == pytest.approx(2 / 6)
    assert distinct(["a b a b", "a b"], 2) == pytest.approx(2 / 4)
    assert math.isnan(distinct(["a"], 2))
    assert even_kinds({"a": 5, "b": 5}) == pytest.approx(2)
    assert even_kinds({"a": 5, "b": 0}) == pytest.approx(1)
    assert even_kinds({}) == 0


def test_draw_is_even():
    counts = np.zeros(20)
    for seed in range(400):
        draw = Draw(5, seed)
        for i in range(20):
            draw.add(str(i), i)
        counts[draw.items()] += 1
    assert (abs(counts - 100) < 40).all()  # four standard deviations and a half
