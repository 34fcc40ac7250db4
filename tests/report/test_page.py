import base64
import io
import math
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pytest
from PIL import Image
from rich.console import Console

from mmjax.report.page import (
    ClassifiedImage,
    ClassReport,
    Component,
    Curve,
    Gallery,
    GalleryImage,
    GalleryRow,
    HardPair,
    HardSamples,
    Report,
    Table,
    format_bytes,
    format_duration,
    format_values,
    print_table,
    write_report,
)

NASTY = "<script>alert(1)</script>|`x` & [a](b)"


def _png(colour):
    out = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(out, "PNG")
    return out.getvalue()


def _row(query, rank):
    target = GalleryImage(_png("green"), "apple", True)
    images = [GalleryImage(_png("red"), f"wrong {place}", False) for place in range(5)]
    if rank <= 5:
        images[rank - 1] = target
    return GalleryRow(query, "red apple", rank, tuple(images), target)


def _table():
    return Table(
        "Retrieval",
        ("R@1", "recovery"),
        (
            ("ceiling", ((0.25, 0.26, 0.27), ())),
            ("adapted", ((0.2, 0.22, 0.24), (0.9, 0.92, 0.94))),
        ),
        caption="328 held-out emoji.",
        formats=(".3f", ".1%"),
        highlight=("adapted",),
    )


def whole_report(**changes):
    parts = {
        "title": "A run",
        "summary": "What came out.",
        "headline": (("recovery", "92.0%"),),
        "tables": (_table(),),
        "curves": (
            Curve("adapted/0", "loss", (0, 10, 20), (2.0, 1.0, 0.5)),
            Curve("adapted/1", "loss", (0, 10, 20), (2.1, 1.1, math.nan)),
            Curve("linear", "loss", (0, 10), (2.0, 1.5)),
            Curve("adapted/0", "val/mR", (20,), (0.4,)),
        ),
        "galleries": (Gallery("Answers", (_row("红苹果", 2), _row("青苹果", 41)), language="zh"),),
        "components": (Component("adapter", 1_234, 5_678_900, "float32", 4 * 2**20),),
        "timings": {"training": 75.0},
        "peak_memory_bytes": 3 * 2**30,
        "command": "python -m mmjax.main --config configs/x.py",
        "environment": {"jax": "0.10.2"},
        "notes": ("three texts were cut",),
    }
    return Report(**(parts | changes))


class _Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.text = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)

    def find(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    html, markdown = write_report(tmp_path_factory.mktemp("run"), whole_report())
    assert sorted(path.name for path in html.parent.iterdir()) == ["report.html", "report.md"]
    return html.read_text(encoding="utf-8"), markdown.read_text(encoding="utf-8")


def test_page_needs_no_other_file_and_no_network(pages):
    page = _Page(pages[0])
    assert not page.find("script")
    assert page.find("link") == [{"rel": "icon", "href": "data:,"}]  # no server is asked for one
    sources = [attrs["src"] for attrs in page.find("img")]
    assert len(sources) == 11  # two rows of five, and the picture that was not found
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert not re.search(r"(?:url\(|@import|(?:src|href)=[\"'])\s*[\"']?https?:", pages[0])


def test_both_pages_show_all_parts(pages):
    for text in pages:
        for expected in (
            "0.220 ± 0.020",
            "92.0% ± 2.0%",
            "0.260 ± 0.010",
            "–",
            "Mean ± standard deviation over 3 seeds.",
            "328 held-out emoji.",
            "红苹果",
            "1,234",
            "5,678,900",
            "4.0 MiB",
            "1 min 15 s",
            "3.0 GiB",
            "python -m mmjax.main --config configs/x.py",
            "three texts were cut",
            "What came out.",
            "0.10.2",
        ):
            assert expected in text, expected


def test_right_picture_is_framed_and_a_missing_one_shown_beside(pages):
    figures = [attrs.get("class") for attrs in _Page(pages[0]).find("figure")]
    assert figures.count("correct") == 1
    assert figures.count("wanted") == 1
    assert "wanted: apple" in pages[0]
    assert "wrong 0, **apple**, wrong 2" in pages[1]


def test_one_plot_a_metric_in_the_colour_of_the_page(pages):
    plots = re.findall(r"<svg.*?</svg>", pages[0], flags=re.DOTALL)
    assert len(plots) == 2
    for plot in plots:
        ET.fromstring(plot)
        assert "currentColor" in plot
        assert "#010203" not in plot
    # The two seeds of one run share a colour, the other run has its own.
    lines = re.findall(r"stroke: (#[0-9a-f]{6})", plots[0])
    assert len(set(lines)) == 2
    identifiers = [re.findall(r'id="(p[0-9a-f]+)"', plot) for plot in plots]
    assert not set(identifiers[0]) & set(identifiers[1])


def test_the_numbers_of_every_plot_can_be_taken_away(pages):
    links = re.findall(r'href="data:text/csv;base64,([^"]+)" download="([^"]+)"', pages[0])
    assert [name for _, name in links] == ["loss.csv", "val_mR.csv"]
    rows = base64.b64decode(links[0][0]).decode().splitlines()
    assert rows[:3] == ["run,step,value", '"adapted/0",0,2.0', '"adapted/0",10,1.0']
    assert rows[6] == '"adapted/1",20,nan'


def test_hard_samples_show_pairs_and_the_histogram_of_their_weights(tmp_path):
    pairs = tuple(HardPair(_png("red"), NASTY, 2.5, 0.125 * i) for i in range(3))
    hard = HardSamples(
        pairs, pairs[::-1], (2.5, 1.0, 0.5), (0.0, 1.5, 1.5), caption="As one batch."
    )
    html, markdown = write_report(
        tmp_path, whole_report(curves=(), galleries=(), hard_samples=hard)
    )
    page, text = html.read_text(encoding="utf-8"), markdown.read_text(encoding="utf-8")
    assert len(_Page(page).find("img")) == 6
    assert not _Page(page).find("script")
    (plot,) = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    ET.fromstring(plot)
    for expected in ("before the first step", "in the end", "weight of a pair"):
        assert expected in plot
    for shown in (page, text):
        assert "As one batch." in shown
        assert shown.index("Heaviest before the first step") < shown.index("Heaviest in the end")
    assert "2.50 → 0.25" in page
    assert "| 2.50 | 0.25 |" in text


def class_table(other):
    rows = (("cat", ((4.0,), (2.0,), (0.5,))), (other, ((3.0,), (1.0,), (math.nan,))))
    return Table("Classes", ("items", "asked", "accuracy"), rows, "", (".0f", ".0f", ".3f"))


def test_classes_show_what_is_right_what_is_mistaken_and_what_is_left_out(tmp_path):
    classes = ClassReport(
        class_table(NASTY),
        left_out=(f"Left out (few): {NASTY} (19).",),
        names=("cat", NASTY),
        matrix=((1, 1), (0, 0)),
        confusions=(("cat", NASTY, 1),),
        examples=(
            ClassifiedImage(_png("red"), "cat", "cat"),
            ClassifiedImage(_png("blue"), "cat", NASTY),
        ),
    )
    html, markdown = write_report(tmp_path, whole_report(curves=(), galleries=(), classes=classes))
    page, text = html.read_text(encoding="utf-8"), markdown.read_text(encoding="utf-8")
    found = _Page(page)
    assert not found.find("script")
    assert len(found.find("img")) == 2
    cells = [cell for cell in found.find("td") if "style" in cell]
    assert [(c["class"], c["style"]) for c in cells] == [
        ("right", "--share:50%"),
        ("wrong", "--share:50%"),
    ]
    assert page.index("Put into their class") < page.index("Put into another")
    for shown in (page, text):
        assert "0.500" in shown
        assert "–" in shown  # nothing of this class was asked about
    assert "| cat | 4 | 2 | 0.500 |" in text
    assert "<script>" not in text.replace("\\<", "")


def test_user_text_is_escaped(tmp_path):
    row = GalleryRow(NASTY, NASTY, 1, (), GalleryImage(_png("red"), NASTY, True))
    html, markdown = write_report(
        tmp_path,
        whole_report(
            title=NASTY,
            summary=NASTY,
            command=f"{NASTY}\n```",
            notes=(NASTY,),
            curves=(Curve(NASTY, NASTY, (0, 1), (0.0, 1.0)),),
            galleries=(Gallery(NASTY, (row,), caption=NASTY, language='"><b>'),),
            tables=(Table(NASTY, (NASTY,), ((NASTY, ((1.0,),)),)),),
            environment={NASTY: NASTY},
        ),
    )
    page = html.read_text(encoding="utf-8")
    assert not _Page(page).find("script")
    assert not _Page(page).find("b")
    assert NASTY in "".join(_Page(page).text)
    for line in markdown.read_text(encoding="utf-8").splitlines():
        if not line.startswith("    "):  # a code block shows everything as it is
            assert "<script>" not in line.replace("\\<", "")
            assert not re.search(r"(?<!\\)`", line)
    rows = [line for line in markdown.read_text(encoding="utf-8").splitlines() if line[:1] == "|"]
    assert all(len(re.findall(r"(?<!\\)\|", line)) in (3, 4, 5, 6) for line in rows)


def test_empty_report_has_no_empty_sections(tmp_path):
    html, markdown = write_report(tmp_path / "new", Report("Nothing yet"))
    page = html.read_text(encoding="utf-8")
    assert "<h2" not in page
    assert "Nothing yet" in page
    assert markdown.read_text(encoding="utf-8").strip() == "# Nothing yet"


def test_same_report_gives_the_same_bytes(tmp_path):
    first, second = (write_report(tmp_path / name, whole_report()) for name in "ab")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_markdown_tables_are_whole(pages):
    lines = pages[1].splitlines()
    start = lines.index("| | R@1 | recovery |")
    assert lines[start - 1] == ""
    assert lines[start + 1] == "|---|---:|---:|"
    assert lines[start + 2] == "| ceiling | 0.260 ± 0.010 | – |"
    assert lines[start + 3] == "| **adapted** | **0.220 ± 0.020** | **92.0% ± 2.0%** |"
    assert lines[start + 4] == ""


@pytest.mark.parametrize(
    ("values", "spec", "text"),
    [
        ((), ".3f", "–"),
        ((math.nan,), ".3f", "–"),
        ((0.12345,), ".3f", "0.123"),
        ((1.0, 3.0), ".1f", "2.0 ± 1.4"),
        ((0.9, 0.92, 0.94), ".1%", "92.0% ± 2.0%"),
        ((1.0, 3.0, math.nan), ".1f", "2.0 ± 1.4 (2 of 3)"),
        ((1.0, math.nan), ".1f", "1.0 (1 of 2)"),
    ],
)
def test_format_values(values, spec, text):
    assert format_values(values, spec) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.416, "0.42 s"),
        (12.34, "12.3 s"),
        (59.96, "1 min 00 s"),
        (245, "4 min 05 s"),
        (7380, "2 h 03 min"),
    ],
)
def test_format_duration(seconds, text):
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [(12, "12 B"), (1536, "1.5 KiB"), (3 * 2**30, "3.0 GiB"), (2**41, "2.0 TiB")],
)
def test_format_bytes(number, text):
    assert format_bytes(number) == text


def test_table_refuses_rows_that_do_not_fit():
    with pytest.raises(ValueError, match="row 'a': 2 columns, 1 cells"):
        Table("T", ("x", "y"), (("a", ((1.0,),)),))
    with pytest.raises(ValueError, match="2 columns, 1 formats"):
        Table("T", ("x", "y"), (), formats=(".1f",))


def test_print_table_keeps_rows_whole_in_a_pipe(capsys):
    print_table(_table())
    out = capsys.readouterr().out
    assert re.search(r"adapted.*0\.220 ± 0\.020.*92\.0% ± 2\.0%", out)
    assert "over 3 seeds" in out


def test_print_table_takes_markup_literally():
    out = io.StringIO()
    print_table(
        Table("[bold]T[/bold]", ("[red]x",), (("[/]", ((1.0,),)),)), Console(file=out, width=80)
    )
    assert "[bold]T[/bold]" in out.getvalue()
    assert "[/]" in out.getvalue()
