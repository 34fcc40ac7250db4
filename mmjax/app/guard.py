"""What stands before the page: bounds on bodies and uploads, and headers that keep it to itself."""

import contextlib
import os
import time
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

from mmjax.app.limits import Limits

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

MOST_WORDS = 1 << 20  # bytes of a body that uploads nothing
FRAME = 1 << 16  # bytes of a form around its files
KEPT = 3600  # seconds that an upload stays
# Whatever the page loads comes from where it comes from itself.
HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
        b"style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
        b"connect-src 'self' blob: data:; worker-src 'self' blob:; media-src 'self' blob:; "
        b"object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)


class _TooLargeError(Exception):
    """A body that goes on beyond its bound."""


class Guard:
    """An ASGI application around another one."""

    def __init__(self, app: Application, limits: Limits, uploads: Path) -> None:
        """Lets through what keeps to the limits.

        Args:
          app: that is guarded.
          limits: of what a visitor may send.
          uploads: the folder where uploaded files are kept.
        """
        self._app, self._limits, self._uploads = app, limits, uploads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_upload = scope["path"].rstrip("/").endswith("/upload")
        most = MOST_WORDS
        if is_upload:
            most = self._limits.pictures * self._limits.file_bytes + FRAME
        begun = False

        async def answer(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                kept = [h for h in message.get("headers", ()) if h[0].lower() not in dict(HEADERS)]
                message = {**message, "headers": [*kept, *HEADERS]}
            await send(message)

        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > most:
            await _refuse(answer, 413, f"This is too large. {self._limits.sentence}")
            return
        if is_upload and bytes_in(self._uploads) + int(declared) > self._limits.kept_bytes:
            await _refuse(answer, 507, "Too many pictures are kept here now; come back in an hour.")
            return
        read = 0

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > most:
                raise _TooLargeError
            return message

        try:
            await self._app(scope, counted, answer)
        except _TooLargeError:
            if not begun:
                await _refuse(answer, 413, f"This is too large. {self._limits.sentence}")


async def _refuse(send: Send, status: int, sentence: str) -> None:
    body = sentence.encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def bytes_in(folder: Path) -> int:
    """How much the files of a folder take, of which those older than an hour are deleted.

    Gradio sweeps uploads too, but not those that were broken off.
    """
    total, now = 0, time.time()
    for place, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(place, name)
            with contextlib.suppress(OSError):  # one that goes away meanwhile takes nothing
                info = os.stat(path)
                if now - info.st_mtime > KEPT:
                    os.unlink(path)
                else:
                    total += info.st_size
    return total
