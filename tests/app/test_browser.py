"""The pages in a real Chromium: what a visitor sees and does, on a desk and on a phone."""

import re
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.app.chromium import DESK, PHONE, needs
from tests.app.test_limits import png
from tests.app.test_served import coloured

pytestmark = [pytest.mark.browser, needs("gradio", "playwright")]
KINDS = ("search", "classify", "chat")
# Of an element: its letters' colour, and that of what is behind them.
COLOURS = """e => {
  const text = getComputedStyle(e).color;
  for (; e; e = e.parentElement) {
    const behind = getComputedStyle(e).backgroundColor;
    if (!/^rgba.*, 0\\)$|^transparent$/.test(behind)) return [text, behind];
  }
  return [text, "rgb(255, 255, 255)"];
}"""


@pytest.fixture
def visit(chromium, serve) -> Iterator[Callable[..., Any]]:
    """Returns `visit(kind, **options)`: a page that is loaded; it must ask no other host."""
    contexts: list[Any] = []
    hosts: set[str] = set()
    errors: list[str] = []

    def open_page(kind: str, **options: Any) -> Any:
        contexts.append(chromium.new_context(**{"viewport": DESK, **options}))
        page = contexts[-1].new_page()
        page.set_default_timeout(30_000)
        page.on("request", lambda r: hosts.add(urlsplit(r.url).hostname or "127.0.0.1"))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
        page.goto(serve(kind).url)
        page.locator("h1").wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert hosts <= {"127.0.0.1"}
    assert errors == []


def files(page: Any, place: str, *given: tuple[str, bytes]) -> None:
    """Chooses files in one of the page's places."""
    page.locator(f"#{place} input[type=file]").set_input_files(
        [{"name": name, "mimeType": "image/png", "buffer": data} for name, data in given]
    )


def typing(page: Any) -> None:
    """Waits until the page has put the visitor into its text box."""
    page.wait_for_function("['INPUT', 'TEXTAREA'].includes(document.activeElement.tagName)")


def test_a_search_by_keyboard_alone(visit):
    page = visit("search")
    assert page.title() == "a toy"
    typing(page)
    page.keyboard.type("green")
    page.keyboard.press("Enter")
    page.locator("#found img").first.wait_for()
    columns = page.locator("#found section")
    assert columns.count() == 2
    assert columns.nth(0).locator("img").first.get_attribute("alt") == "green.png"
    assert columns.nth(1).locator("img").first.get_attribute("alt") == "blue.png"
    boxes = [columns.nth(i).bounding_box() for i in (0, 1)]
    assert boxes[0]["y"] == boxes[1]["y"], "on a desk they stand beside each other"
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent").strip() in ("Search", "green")


def test_an_example_is_clicked(visit):
    page = visit("search")
    page.get_by_role("button", name="red", exact=True).click()
    page.locator("#found img").first.wait_for()
    assert page.locator("#found img").first.get_attribute("alt") == "red.png"


def test_a_hostile_upload_is_refused_where_the_visitor_looks(visit):
    page = visit("search")
    page.get_by_text("The pictures that are searched").click()
    page.get_by_text("3 pictures to search").wait_for()
    files(page, "upload", ("<b>evil.png", b"<script>alert(1)</script>"))
    alert = page.get_by_role("alert").filter(has_text="cannot be read")
    alert.wait_for()
    assert page.locator("#alert script, #alert b").count() == 0
    # It is taken back by a good one.
    page.get_by_label(re.compile("clear|remove", re.IGNORECASE)).first.click()
    files(page, "upload", ("good.png", png(20, 20)))
    page.get_by_text("1 picture to search").wait_for()
    assert not alert.is_visible()


def test_classes_are_taught(visit):
    page = visit("classify")
    files(page, "upload", ("green.png", coloured("green")))
    page.locator("#answer .bars").first.wait_for()
    assert page.locator("#answer .bars li").first.inner_text().split() == ["green", "100%"]
    # Without a picture of one's own there are samples: blue, green, red.
    page.locator("#samples button:has(img)").nth(2).click()
    page.locator("#answer section:first-of-type li:first-child span").filter(
        has_text="red"
    ).first.wait_for()
    page.get_by_role("tab", name="Your classes").click()
    for name in ("blue", "red"):
        box = page.get_by_label("Name of a class")
        box.fill(name)
        page.keyboard.press("Enter")
        page.locator("#lesson b").filter(has_text=name).wait_for()
        page.wait_for_function("box => box.value === ''", arg=box.element_handle())
    page.get_by_role("button", name="Learn", exact=True).click()
    page.get_by_text("Learned: ask").wait_for()
    files(page, "asked", ("blue.png", coloured("blue")))
    page.locator("#own-answer .bars").first.wait_for()
    assert page.locator("#own-answer .bars li").first.inner_text().split() == ["blue", "100%"]


def test_a_talk_streams_and_stops(visit):
    page = visit("chat")
    files(page, "upload", ("green.png", coloured("green")))
    page.locator("#picture img").wait_for()
    box = page.get_by_label("Your question")
    box.fill("begin " + "word " * 90)
    page.keyboard.press("Enter")
    bot = page.locator("#talk [data-testid=bot]")
    bot.filter(has_text="begin word").first.wait_for()
    page.get_by_role("button", name="Stop").click()
    page.wait_for_timeout(500)
    now = bot.first.inner_text()
    page.wait_for_timeout(1000)
    assert bot.first.inner_text() == now
    assert now.count("word") < 90
    # What was broken off is forgotten; the next one is answered.
    box.fill("<b>bold</b> again")
    page.keyboard.press("Enter")
    bot.filter(has_text="<b>bold</b> again").wait_for()
    assert page.locator("#talk b").count() == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_phone_scrolls_in_one_direction(kind, visit):
    page = visit(kind, viewport=PHONE, is_mobile=True, has_touch=True)
    if kind == "search":
        page.get_by_label("What are you looking for?").fill("green")
        page.get_by_role("button", name="Search", exact=True).tap()
        page.locator("#found img").first.wait_for()
        boxes = [page.locator("#found section").nth(i).bounding_box() for i in (0, 1)]
        assert boxes[1]["y"] > boxes[0]["y"]
    widths = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert widths[0] <= widths[1]
    for button in page.get_by_role("button").filter(visible=True).all():
        box = button.bounding_box()
        assert box["x"] >= 0, button.inner_text()
        assert box["x"] + box["width"] <= PHONE["width"], button.inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_letters_stand_out_in_both_schemes(scheme, visit):
    page = visit("search", color_scheme=scheme)
    typing(page)
    page.keyboard.type("green")
    page.keyboard.press("Enter")
    page.locator("#found small").wait_for()
    places = ("h1", ".quiet", "#found h3", "#found small", "#found span", "label span", "button")
    for place in places:
        text, behind = page.locator(place).first.evaluate(COLOURS)
        ground, letters = luminance(behind), luminance(text)
        if place == "h1":
            assert (ground < 0.2) == (scheme == "dark")
        low, high = sorted([ground, letters])
        assert (high + 0.05) / (low + 0.05) >= 4.5, (place, text, behind)


def luminance(colour: str) -> float:
    """Relative luminance of `rgb(...)`, as WCAG 2 has it."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
