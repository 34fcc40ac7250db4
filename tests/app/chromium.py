"""Debian's Chromium for the tests, and what axe-core finds on a page that it shows."""

import importlib.util
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
DESK, PHONE = {"width": 1200, "height": 900}, {"width": 360, "height": 740}
# Scheme -> the rules that are asked in it; none for all. It changes colours, and nothing else.
SCHEMES: dict[str, tuple[str, ...]] = {"light": (), "dark": ("color-contrast",)}
# Faults of these impacts keep somebody from reading or using a page.
GRAVE = ("serious", "critical")
# Colours are measured as they are in the end, and tables on their ground without its shadows.
STILL = """
  *, ::before, ::after { transition: none !important; animation: none !important; }
  .card.scroll { background: var(--card) !important; }
"""
_RUN = "options => axe.run(document, options)"
_REMOVE = "places => document.querySelectorAll(places).forEach(place => place.remove())"
_OPTIONS = {"resultTypes": ["violations"], "iframes": False, "preload": False}


def needs(*packages: str) -> pytest.MarkDecorator:
    """Skips where Chromium or packages are missing, and says which."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    missing += [] if BROWSER else ["chromium"]
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}")


@contextmanager
def browsing() -> Iterator[Any]:
    """Chromium, as long as it is needed; one at a time."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Within a container, where nobody else's pages are opened, it has no sandbox of its own.
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


def shown(browser: Any, url: str, scheme: str) -> Any:
    """A page in a scheme of colours, loaded."""
    # axe-core is put into the page from outside, which a page's policy rightly forbids.
    context = browser.new_context(viewport=DESK, color_scheme=scheme, bypass_csp=True)
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.goto(url)
    return page


def faults(page: Any, *rules: str, sizes: Sequence[Any] = (DESK, PHONE)) -> list[str]:
    """The grave faults of a page, each with its first places.

    Args:
      page: that is shown.
      rules: of axe-core; none for all of them.
      sizes: at which it is shown.

    Returns:
      The faults.
    """
    import axe_playwright_python

    page.add_style_tag(content=STILL)
    if page.evaluate("typeof axe") == "undefined":
        script = Path(axe_playwright_python.__file__).with_name("axe.min.js")
        page.evaluate(script.read_text("utf-8"))
    options = _OPTIONS | ({"runOnly": list(rules)} if rules else {})
    found = []
    for size in sizes:
        page.set_viewport_size(size)
        for fault in page.evaluate(_RUN, options)["violations"]:
            if fault["impact"] not in GRAVE:
                continue
            places = [
                f"\n    {place['html'][:200]}\n    {' '.join(place['failureSummary'].split())}"
                for place in fault["nodes"][:3]
            ]
            count = f"{len(fault['nodes'])} times at {size['width']} pixels"
            found.append(f"{fault['impact']}: {fault['help']}, {count}{''.join(places)}")
        if page.evaluate("document.documentElement.scrollWidth > window.innerWidth"):
            found.append(f"wider than {size['width']} pixels")
    page.set_viewport_size(DESK)
    return found


def faults_in_both(browser: Any, url: str, without: str = "no-such-element") -> list[str]:
    """The grave faults of a page, in light and dark, on a desk and a phone.

    Args:
      browser: that shows it.
      url: of the page.
      without: a selector of what is left out, where a page has hundreds of a kind.

    Returns:
      The faults.
    """
    found = []
    for scheme, rules in SCHEMES.items():
        page = shown(browser, url, scheme)
        page.evaluate(_REMOVE, without)
        # A phone shows nothing in dark that a desk does not show too.
        sizes = (DESK,) if rules else (DESK, PHONE)
        found += [f"{scheme}, {fault}" for fault in faults(page, *rules, sizes=sizes)]
        page.context.close()
    return found
