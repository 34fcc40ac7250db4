"""What stands before the page: bodies and uploads are bounded, answers carry headers."""

import asyncio
import os
import time

import pytest

from mmjax.app.guard import FRAME, KEPT, MOST_WORDS, Guard, bytes_in
from mmjax.app.limits import Limits

LIMITS = Limits(file_bytes=1000, pictures=2, kept_bytes=100_000)
MOST = 2 * 1000 + FRAME


async def page(scope, receive, send):
    """Reads the whole body, then says how long it was."""
    count, more = 0, True
    while more:
        message = await receive()
        count += len(message.get("body", b""))
        more = message.get("more_body", False)
    headers = [(b"x-content-type-options", b"whatever"), (b"server", b"toy")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": str(count).encode()})


def call(folder, path, parts, declared=None):
    """-> (status, headers, body)."""
    queue = [
        {"type": "http.request", "body": part, "more_body": i + 1 < len(parts)}
        for i, part in enumerate(parts)
    ]
    sent = []

    async def receive():
        return queue.pop(0)

    async def send(message):
        sent.append(message)

    headers = [] if declared is None else [(b"content-length", declared)]
    scope = {"type": "http", "path": path, "headers": headers}
    asyncio.run(Guard(page, LIMITS, folder)(scope, receive, send))
    start, *bodies = sent
    return start["status"], start["headers"], b"".join(b["body"] for b in bodies)


def test_good_requests_pass_and_answers_carry_headers(tmp_path):
    status, headers, body = call(tmp_path, "/gradio_api/upload", [b"x" * 1000, b"x" * 1000])
    assert (status, body) == (200, b"2000")
    assert headers.count((b"x-content-type-options", b"nosniff")) == 1
    assert (b"server", b"toy") in headers
    assert b"default-src 'self'" in dict(headers)[b"content-security-policy"]


@pytest.mark.parametrize("declared", [str(MOST + 1).encode(), b"-1", b"many"])
def test_what_says_that_it_is_too_large_is_not_read(declared, tmp_path):
    status, headers, body = call(tmp_path, "/upload", [], declared)
    assert status == 413
    assert b"at most" in body
    assert dict(headers)[b"referrer-policy"] == b"no-referrer"


def test_what_does_not_say_it_is_cut_off(tmp_path):
    assert call(tmp_path, "/upload", [b"x" * 1000] * (MOST // 1000))[0] == 200
    assert call(tmp_path, "/upload", [b"x" * 1000] * (MOST // 1000 + 1))[0] == 413
    assert call(tmp_path, "/other", [b"x" * (MOST_WORDS + 1)])[0] == 413


def test_the_disk_is_not_filled(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "kept.png").write_bytes(b"x" * 99_000)
    assert bytes_in(tmp_path) == 99_000
    assert call(tmp_path, "/upload", [b"x" * 1000], b"1000")[0] == 200
    status, _, body = call(tmp_path, "/upload", [b"x" * 1001], b"1001")
    assert (status, b"come back" in body) == (507, True)
    assert call(tmp_path, "/other", [b"x" * 1001], b"1001")[0] == 200
    # What is older than an hour makes room.
    old = time.time() - KEPT - 60
    os.utime(tmp_path / "a" / "kept.png", (old, old))
    assert call(tmp_path, "/upload", [b"x" * 1001], b"1001")[0] == 200
    assert not (tmp_path / "a" / "kept.png").exists()
