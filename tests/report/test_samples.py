import io

import numpy as np
from PIL import Image

from mmjax.report import plots
from mmjax.report.page import Report, write_report
from mmjax.report.samples import LONGEST, Sample, Samples, shorten, thumbnail

NASTY = '<script>|`x` "><b>'


def test_samples_and_figures_stand_on_both_pages_under_the_name_that_is_asked_for(tmp_path):
    rows = (
        Sample(NASTY, "kept", True, ((NASTY, "يد"),), thumbnail(Image.new("RGB", (9, 9)), 9)),
        Sample("gone", "dropped", False, (), None, f"no file {NASTY}"),
        Sample("bare"),
    )
    figure = plots.Figure(NASTY, plots.lines("x", {"": ((0, 1), (2.0, 3.0))}), "read so")
    report = Report("T", figures=(figure,), samples=(Samples(NASTY, rows, "drawn"),))
    paths = write_report(tmp_path, report, "synthesis")
    assert [path.name for path in paths] == ["synthesis.html", "synthesis.md"]
    html, markdown = (path.read_text(encoding="utf-8") for path in paths)
    for text in (html, markdown):
        assert "drawn" in text
        assert "يد" in text
    assert "<script>" not in html
    assert "<script>" not in markdown.replace("\\<", "")
    assert html.count("<img") == html.count('class="absent"') == html.count("<svg") == 1
    assert html.count('class="sample bare"') == 1
    assert "read so" in html


def test_a_mark_is_drawn_and_named_and_series_keep_their_colours():
    once = plots.lines("x", {"a": ((0, 1), (2.0, 3.0)), "b": (np.arange(2), np.ones(2))})
    marked = plots.lines("x", {"a": ((0, 1), (2.0, 3.0))}, 0.5, "chosen")
    assert "chosen" in marked
    assert "stroke-dasharray" in marked
    assert "stroke-dasharray" not in once
    assert all(colour in once for colour in plots.COLOURS[:2])


def test_texts_are_cut_and_can_be_written_and_pictures_are_small():
    assert shorten("ab") == "ab"
    assert shorten("a\ud800") == "a?"
    assert len(shorten("x" * 10_000)) == LONGEST + 2
    picture = Image.open(io.BytesIO(thumbnail(Image.new("RGB", (1000, 10)), 50)))
    assert picture.size == (50, 1)
