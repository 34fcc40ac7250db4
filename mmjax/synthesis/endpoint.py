"""One request to an OpenAI-compatible server, with tries of its own."""

import asyncio
import datetime
import email.utils
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from mmjax.data.files import LONGEST_LINE, parse
from mmjax.errors import DataError, MmjaxError, shown
from mmjax.synthesis.answers import Answer, answer_of_body, reason_of
from mmjax.synthesis.parts import Failure

if TYPE_CHECKING:
    import httpx2
    from tenacity import RetryCallState

_PASSING = (408, 409, 425, 429)  # with all from 500: these may go otherwise another time
_LONGEST_AFTER = 3600.0  # seconds; a server that wants more patience has it in several tries
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Endpoint:
    """A server, and how it is asked.

    Attributes:
      base_url: as OpenAI's own clients take it, such as `http://127.0.0.1:8080/v1`.
      key_variable: the environment variable that holds the key; "" for a server without one. The
        key itself is written nowhere.
      concurrency: requests that are under way together.
      tries: how often one is sent before it counts as failed.
      timeout: seconds until a try is given up.
      first_wait: seconds before the second try; each further wait is twice as long, with jitter.
      longest_wait: seconds; only a server's own Retry-After is obeyed beyond.
    """

    base_url: str
    key_variable: str = ""
    concurrency: int = 16
    tries: int = 6
    timeout: float = 300.0
    first_wait: float = 1.0
    longest_wait: float = 60.0

    def __post_init__(self) -> None:
        """Refuses an address or numbers with which nothing can be asked."""
        if not _is_address(self.base_url):
            raise MmjaxError(
                "base_url is no address of a server; expected http://HOST:PORT/v1, without a "
                "password, for keys come from the environment"
            )
        least = {"concurrency": 1, "tries": 1, "timeout": 0.0, "first_wait": 0, "longest_wait": 0}
        for name, bound in least.items():
            value = getattr(self, name)
            if not bound <= value < float("inf") or (name == "timeout" and not value):
                raise MmjaxError(f"{name} of an endpoint is {shown(value)}; expected more")

    def url(self, path: str) -> str:
        """The whole address of one of the paths of `requests`."""
        base = self.base_url.rstrip("/")
        return (base if urlsplit(base).path else f"{base}/v1") + path.removeprefix("/v1")

    def key(self) -> str:
        """The key, or "".

        Raises:
          MmjaxError: the variable is not set, or holds what no header can.
        """
        key = os.environ.get(self.key_variable, "").strip() if self.key_variable else ""
        if self.key_variable and not (key and key.isascii() and key.isprintable()):
            raise MmjaxError(
                f"the environment variable {self.key_variable} holds no key; set it, or leave "
                "key_variable empty for a server without keys"
            )
        return key


def _is_address(url: str) -> bool:
    """Whether it leads to a server, and carries no password or query."""
    try:
        parts = urlsplit(url)
        named = bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number
        return False
    plain = not (parts.username or parts.password or parts.query or parts.fragment)
    return parts.scheme in ("http", "https") and named and plain


class _Again(Exception):
    """A try that failed and may go better another time."""

    def __init__(self, reason: str, after: float = 0.0) -> None:
        super().__init__(reason)
        self.after = after


class _Refused(Exception):
    """What the server will not answer, however often it is asked."""


def check_installed() -> None:
    """Refuses where the extra is not installed.

    Raises:
      MmjaxError: says what to install.
    """
    try:
        import anyio  # noqa: F401
        import httpx2  # noqa: F401
        import tenacity  # noqa: F401
    except ImportError as error:
        raise MmjaxError(
            "asking a server needs anyio, httpx2 and tenacity: "
            "python -m pip install 'mmjax[synthesis]'"
        ) from error


def open_client(endpoint: Endpoint) -> "httpx2.AsyncClient":
    """A client whose requests carry the key.

    Raises:
      MmjaxError: as `Endpoint.key`.
    """
    import httpx2

    key = endpoint.key()
    return httpx2.AsyncClient(
        headers={"Content-Type": "application/json"}
        | ({"Authorization": f"Bearer {key}"} if key else {}),
        timeout=None,  # each try has one for itself as a whole
        limits=httpx2.Limits(
            max_connections=endpoint.concurrency, max_keepalive_connections=endpoint.concurrency
        ),
        # What goes to this machine goes through no proxy.
        trust_env=urlsplit(endpoint.base_url).hostname not in _LOOPBACK,
    )


async def ask(
    client: "httpx2.AsyncClient", endpoint: Endpoint, url: str, body: bytes
) -> Answer | Failure:
    """Sends a request until it is answered, refused, or out of tries.

    Args:
      client: from `open_client`.
      endpoint: says how often, and how long it waits in between.
      url: whole.
      body: JSON.

    Returns:
      The answer, or why there is none.

    Raises:
      MmjaxError: the server refuses the key, which would fail everything else too.
    """
    from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt

    tries = 0

    async def once() -> Answer:
        nonlocal tries
        tries += 1
        return await _send(client, endpoint, url, body)

    retrying = AsyncRetrying(
        stop=stop_after_attempt(endpoint.tries),
        wait=_waits(endpoint),
        retry=retry_if_exception_type(_Again),
        reraise=True,
    )
    try:
        return await retrying(once)
    except (_Again, _Refused) as error:
        key = endpoint.key()
        return Failure(str(error).replace(key, "***") if key else str(error), tries)


async def _send(client: "httpx2.AsyncClient", endpoint: Endpoint, url: str, body: bytes) -> Answer:
    import httpx2

    sent = bytearray()
    try:
        async with (
            asyncio.timeout(endpoint.timeout),
            client.stream("POST", url, content=body) as response,
        ):
            async for piece in response.aiter_bytes():
                sent += piece
                if len(sent) > LONGEST_LINE:
                    raise _Refused(f"the answer is longer than {LONGEST_LINE >> 20} MiB")
    except TimeoutError as error:
        raise _Again(f"no whole answer within {endpoint.timeout:g} s") from error
    except httpx2.RequestError as error:
        raise _Again(f"the connection failed ({type(error).__name__}: {error})") from error
    status = response.status_code
    text = sent.decode(errors="replace")
    try:
        content = parse("the answer", text, "JSON")
        if status == 200:
            return answer_of_body("the answer", content)
    except DataError as error:
        if status == 200:
            raise _Again(str(error)) from error
        content = text
    if status == 401:
        raise MmjaxError(
            f"{endpoint.base_url} wants a valid key (401); key_variable names the environment "
            "variable that holds it"
        )
    reason = f"the server answered {status}: {reason_of(content) or 'no reason given'}"
    if status in _PASSING or status >= 500:
        raise _Again(reason, _after(response.headers.get("Retry-After", "")))
    raise _Refused(reason)


def _waits(endpoint: Endpoint) -> "Callable[[RetryCallState], float]":
    from tenacity import wait_exponential, wait_random

    usual = wait_exponential(endpoint.first_wait, endpoint.longest_wait)
    usual += wait_random(0, endpoint.first_wait)

    def wait(state: "RetryCallState") -> float:
        error = state.outcome.exception() if state.outcome else None
        # On top of what the server asks for, so that not all come back at once.
        return usual(state) + (error.after if isinstance(error, _Again) else 0.0)

    return wait


def _after(header: str) -> float:
    """Seconds of a Retry-After: a number or a date; 0 for anything else."""
    try:
        seconds = float(header)
    except ValueError:
        try:
            date = email.utils.parsedate_to_datetime(header)
            seconds = (date - datetime.datetime.now(datetime.UTC)).total_seconds()
        except (TypeError, ValueError):  # no date, or one without a zone
            return 0.0
    return min(max(seconds, 0.0), _LONGEST_AFTER) if math.isfinite(seconds) else 0.0
