"""axe-core finds no grave fault on reports, site and app, light and dark, on a desk and a phone."""

import functools
import http.server
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mmjax.commands import compare
from mmjax.report import plots
from mmjax.report.page import ClassifiedImage, ClassReport, HardPair, HardSamples, write_report
from mmjax.report.samples import Sample, Samples
from mmjax.synthesis import report as synthesis
from tests.app.chromium import SCHEMES, faults, faults_in_both, needs, shown
from tests.app.conftest import ROOT
from tests.app.test_browser import files, typing
from tests.app.test_limits import png
from tests.app.test_served import coloured
from tests.commands.test_compare import write_run
from tests.report.test_page import class_table, whole_report
from tests.synthesis.test_report import synthesis_folder

pytestmark = [pytest.mark.browser, needs("axe_playwright_python", "playwright")]
SITE = ("", "guides/language/", "notebooks/1_search/", "results/")
LONG = "reference/api/"
# It has hundreds of entries of a kind: the first are looked at.
REST = ".md-nav--secondary li:nth-child(n+8), .doc-object:nth-of-type(n+8)"


def test_a_page_with_faults_is_told(chromium, tmp_path):
    bad = "<p style='color: #999'>pale</p><img src='x.png'><div style='width: 2000px'>wide</div>"
    (tmp_path / "bad.html").write_text(f"<!doctype html><html><body><main>{bad}</main></html>")
    found = "\n".join(faults_in_both(chromium, (tmp_path / "bad.html").as_uri()))
    for said in ("light, serious", "dark, serious", "contrast", "alternative text", "lang"):
        assert said in found
    assert "wider than 360 pixels" in found


def whole(folder: Path) -> Path:
    """A report in which nothing is missing."""
    pairs = tuple(HardPair(png(8, 8), f"pair {i}", 2.5, 0.5 * i) for i in range(3))
    classes = ClassReport(
        class_table("cow"),
        left_out=("Left out (few): dog (19).",),
        names=("cat", "cow"),
        matrix=((1, 9), (0, 0)),
        confusions=(("cat", "cow", 9),),
        examples=(ClassifiedImage(png(8, 8), "cat", "cat"), ClassifiedImage(png(8, 8), "cat", "x")),
        caption="Answers of a system.",
    )
    lines = {"one": ((0, 1), (2.0, 3.0)), "other": ((0, 1), (1.0, 3.0))}
    rows = (
        Sample("What is it?", "right", True, (("said", "a cat"),), png(8, 8)),
        Sample("And this?", "wrong", False, (("said", "a cow"),), None, "the file is gone"),
    )
    report = whole_report(
        hard_samples=HardSamples(pairs, pairs, (2.5, 1.0), (0.5, 1.5), "As one batch."),
        classes=classes,
        figures=(plots.Figure("Shares", plots.lines("share", lines, 0.5), "read so"),),
        samples=(Samples("Answers", rows, "Drawn at random."),),
    )
    return write_report(folder, report)[0]


def compared(folder: Path) -> Path:
    """A page of two runs."""
    runs = [
        write_run(folder / "slow", 0.1, [0.2, 0.4]),
        write_run(folder / "quick", 0.3, [0.3, 0.6]),
    ]
    return write_report(folder, compare.compare(runs), compare.NAME)[0]


def synthesized(folder: Path) -> Path:
    """A page of tasks that were written and judged."""
    return synthesis.write_report(synthesis_folder(folder / "run"))[0]


@pytest.mark.parametrize("make", [whole, compared, synthesized])
def test_a_report(make, chromium, tmp_path):
    assert faults_in_both(chromium, make(tmp_path).as_uri()) == []


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Iterator[str]:
    """The documentation, built and served."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@needs("material", "mkdocs", "mkdocstrings")
@pytest.mark.parametrize("path", [*SITE, LONG])
def test_the_site(path, chromium, site):
    more = (REST,) if path == LONG else ()
    assert faults_in_both(chromium, f"{site}/{path}", *more) == []


def searched(page: Any) -> None:
    """A search that found something."""
    typing(page)
    page.keyboard.type("green")
    page.keyboard.press("Enter")
    page.locator("#found img").first.wait_for()
    page.get_by_text("The pictures that are searched").click()
    page.get_by_text("3 pictures to search").wait_for()


def classified(page: Any) -> None:
    """An answer, then the visitor's own classes, one of them taught."""
    files(page, "upload", ("green.png", coloured("green")))
    page.locator("#answer .bars").first.wait_for()
    assert faults(page) == []
    page.get_by_role("tab", name="Your classes").click()
    page.get_by_label("Name of a class").fill("blue")
    page.keyboard.press("Enter")
    page.locator("#lesson b").filter(has_text="blue").wait_for()
    page.get_by_role("button", name="green", exact=True).wait_for()


def talked(page: Any) -> None:
    """A question that was answered, and one that was refused."""
    files(page, "upload", ("green.png", coloured("green")))
    page.locator("#picture img").wait_for()
    page.get_by_label("Your question").fill("one two")
    page.keyboard.press("Enter")
    page.locator("#talk [data-testid=bot]").filter(has_text="one two").wait_for()
    page.get_by_label(re.compile("clear|remove", re.IGNORECASE)).first.click()
    files(page, "upload", ("evil.png", b"no picture"))
    page.get_by_role("alert").filter(has_text="cannot be read").wait_for()


@needs("gradio")
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    ("kind", "used"), [("search", searched), ("classify", classified), ("chat", talked)]
)
def test_the_app(kind, used, scheme, chromium, serve):
    page = shown(chromium, serve(kind).url, scheme)
    page.locator("h1").wait_for()
    if kind != "classify":
        page.get_by_role("button", name="green", exact=True).wait_for()
    if scheme == "light":
        assert faults(page) == []
    used(page)
    assert faults(page, *SCHEMES[scheme]) == []
    page.context.close()
