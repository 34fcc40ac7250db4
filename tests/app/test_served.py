"""The pages over HTTP: answers, uploads, the queue, and what no visitor gets to see."""

import importlib.util
import json
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.app.conftest import ROOT, Served, Visitor, file_of
from tests.app.test_limits import bomb, png

pytestmark = [
    pytest.mark.app,
    pytest.mark.skipif(
        importlib.util.find_spec("gradio") is None, reason="gradio is not installed (extra: app)"
    ),
]


def order(html: str) -> list[str]:
    """The files that a result shows, in its order."""
    return [part.split('"')[0] for part in html.split('alt="')[1:]]


def test_a_query_is_answered_by_both_models(serve):
    shown, alert = Visitor(serve("search").url).answer("search", "green")
    assert alert == ""
    adapted, frozen = shown.split("The frozen model")
    assert order(adapted)[0] == "green.png"
    assert order(frozen)[0] == "blue.png"


def test_own_pictures_are_searched_by_their_visitor_alone(serve):
    first, second = (Visitor(serve("search").url) for _ in range(2))
    status, paths = first.upload(("a.png", coloured("red")), ("b.png", coloured("green")))
    assert status == 200
    _, overview, _, alert = first.answer("pictures", [file_of(path) for path in paths])
    assert "2 pictures to search" in overview
    assert alert == ""
    adapted, _ = first.answer("search", "green")[0].split("The frozen model")
    assert order(adapted) == ["b.png", "a.png"]
    assert order(second.answer("search", "green")[0])[0] == "green.png"


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("page.png", b"<script>alert(1)</script>", "page.png cannot be read"),
        ("bomb.png", bomb(60_000), "bomb.png has"),
        ("wide.png", png(1001, 1000), "wide.png has 1000 x 1001 pixels"),
        ("x.svg", b"<svg onload='alert(1)' xmlns='http://www.w3.org/2000/svg'/>", "x.svg cannot"),
        ("..%2f..%2fup.png", b"GIF89a", "cannot be read"),
    ],
)
def test_hostile_uploads_are_refused_in_a_sentence(name, data, said, serve):
    page = serve("search")
    visitor = Visitor(page.url)
    status, paths = visitor.upload((name, data))
    assert status == 200
    *_, alert = visitor.answer("pictures", [file_of(paths[0])])
    assert said in alert
    assert alert.count("<p") == 1
    assert str(page.folder) not in alert
    # Whoever was refused is served as before.
    assert order(visitor.answer("search", "green")[0])[0] == "green.png"


def test_too_much_is_refused(serve):
    visitor = Visitor(serve("search").url)
    assert visitor.upload(("large.png", b"x" * 300_000))[0] == 413
    status, said = visitor.upload(*[(f"{i}.png", b"x" * 190_000) for i in range(6)])
    assert (status, "at most" in said) == (413, True)
    status, paths = visitor.upload(*[(f"{i}.png", png(5, 5)) for i in range(5)])
    assert status == 200
    *_, alert = visitor.answer("pictures", [file_of(path) for path in paths])
    assert "5 files are too many; at most 4" in alert
    assert "has 1001 letters" in visitor.answer("search", "a" * 1001)[-1]
    assert visitor.ask("search", "a" * (2 << 20))[0] == 413


def test_files_of_the_host_are_not_read(serve):
    page = serve("search")
    visitor = Visitor(page.url)
    places = [str(page.pictures / "green.png"), str(ROOT / "pyproject.toml"), "/etc/passwd"]
    for place in places:
        assert visitor.request("GET", f"/gradio_api/file={place}")[0] in (403, 404)
        (event, said), *_ = visitor.ask("pictures", [file_of(place)])[1]
        assert event == "error", said
    # Nor does it fetch anything for a visitor.
    address = file_of(f"{page.url}/theme.css")
    for name, value in (("pictures", [address]), ("search", address)):
        (event, said), *_ = visitor.ask(name, value)[1]
        assert event == "error"
        assert "Only uploaded files" in json.dumps(said)


def test_no_visitor_reads_of_the_host(serve):
    page = serve("search")
    visitor = Visitor(page.url)
    _, paths = visitor.upload(("a.png", b"no picture"))
    seen = [
        visitor.request("GET", path)
        for path in ("/", "/config", "/gradio_api/info", "/theme.css", "/gradio_api/startup-events")
    ]
    said = [str(visitor.ask("search", query)) for query in ("green", "unknown word", "")]
    said.append(str(visitor.ask("pictures", [file_of(paths[0])])[1][0][1][-1]))
    whole = b"\n".join(body for _, _, body in seen).decode() + "".join(said)
    for private in (str(page.folder), str(ROOT), "Traceback", "site-packages"):
        assert private not in whole
    # What went wrong is told to whoever runs the page, not to the visitor.
    assert "Something went wrong here" in said[1]
    assert "KeyError: 'unknown word'" in page.errors.read_text()
    for _, headers, _ in seen:
        assert "default-src 'self'" in headers["content-security-policy"]
    index = seen[0][2].decode()
    assert "fonts.googleapis.com/css" not in index
    config = json.loads(seen[1][2])
    assert config["analytics_enabled"] is False


def test_fifty_visitors_at_once_are_all_answered(serve):
    page = serve("search")
    colours = ("red", "green", "blue")

    def visit(i: int) -> float:
        visitor, colour = Visitor(page.url), colours[i % 3]
        begun = time.monotonic()
        assert visitor.request("GET", "/")[0] == 200
        shown, alert = visitor.answer("search", colour)
        assert alert == ""
        assert order(shown)[0] == f"{colour}.png"
        return time.monotonic() - begun

    with ThreadPoolExecutor(50) as pool:
        taken = list(pool.map(visit, range(50)))
    print(f"50 visitors: median {statistics.median(taken):.1f} s, longest {max(taken):.1f} s")
    assert max(taken) < 60


def test_classes_are_learned_and_taught(serve):
    visitor = Visitor(serve("classify").url)
    _, (green, blue) = visitor.upload(
        ("green.png", coloured("green")), ("blue.png", coloured("blue"))
    )
    shown, alert = visitor.answer("classify", file_of(green))
    assert alert == ""
    assert shown.index("<span>green</span>") < shown.index("<span>red</span>")
    _, alert = visitor.answer("classify_taught", file_of(blue))
    assert "Teach two classes" in alert
    _, taught, *_, alert = visitor.answer("add_class", "blue", [file_of(blue)])
    assert ("1 picture" in taught, alert) == (True, "")
    assert "two classes or more" in visitor.answer("learn", None)[-1]
    visitor.answer("add_class", "red", None)
    _, taught, answer, alert = visitor.answer("learn", file_of(blue))
    assert "Learned" in taught
    assert answer.index("<span>blue</span>") < answer.index("<span>red</span>")
    # Another visitor's classes are others.
    assert "Teach two" in Visitor(serve("classify").url).answer("classify_taught", file_of(blue))[1]


def coloured(name: str) -> bytes:
    import io

    from PIL import Image

    from tests.app.models import COLOURS

    buffer = io.BytesIO()
    Image.new("RGB", (30, 30), COLOURS[name]).save(buffer, "PNG")
    return buffer.getvalue()


def test_answers_stream_and_are_remembered(serve):
    visitor = Visitor(serve("chat").url)
    status, events = visitor.ask("ask", "one two three four")
    assert status == 200
    grown = [len(json.dumps(data)) for event, data in events if event == "generating"]
    assert len(grown) >= 4
    talk, alert = visitor.answer("ask", "five")[-2:]
    assert [message["role"] for message in talk] == ["user", "assistant"] * 2
    assert "one two three four" in json.dumps(talk)
    assert alert == ""


def test_a_full_queue_sends_visitors_away(serve):
    page = serve("chat")

    def visit(i: int) -> str:
        status, events = Visitor(page.url).ask("ask", "word " * 20)
        return events[-1][0] if status == 200 else str(status)

    with ThreadPoolExecutor(12) as pool:
        ended = list(pool.map(visit, range(12)))
    print(f"12 visitors, 4 places: {ended}")
    # One is answered, three wait; a late one may find a place that became free.
    assert ended.count("complete") >= 4
    assert ended.count("503") >= 4
    assert len(ended) == ended.count("complete") + ended.count("503")


def test_pages_told_nothing_that_they_did_not_have_to(serve):
    for kind in ("classify", "chat"):
        page: Served = serve(kind)
        assert "Traceback" not in page.errors.read_text()
