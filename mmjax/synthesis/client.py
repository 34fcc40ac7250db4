"""Asks an OpenAI-compatible server: many requests at once, by id.

An answer is in the file before its place is given to another request, so a run that was killed goes
on where it was. What is left at the end depends on requests and answers, not on when they came.
"""

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from mmjax.data.files import name_of, read_jsonl
from mmjax.data.turn_records import as_line, check_new
from mmjax.errors import writing
from mmjax.progress import track
from mmjax.synthesis.answers import Answer, read_answer
from mmjax.synthesis.endpoint import Endpoint, ask, check_installed, open_client
from mmjax.synthesis.lines import drop_torn, write_lines
from mmjax.synthesis.parts import Failure
from mmjax.synthesis.requests import find_answers


class _Request(NamedTuple):
    name: str
    url: str
    body: bytes
    digest: str  # of url and body
    wanted: bool


class _Result(NamedTuple):
    request: _Request
    outcome: Answer | Failure | None  # None: it was not asked


def run_requests(
    requests: Iterable[Mapping[str, Any]],
    endpoint: Endpoint,
    out_path: Path,
    failed_path: Path,
    step: str = "ask",
    retry_failed: bool = False,
    total: int | None = None,
) -> Counter[str]:
    """Asks for everything that is not answered yet.

    A request counts as answered where `out_path` has an answer to its id and its very content. One
    process at a time may write the two files.

    Args:
      requests: as `requests.requests_of` makes and `requests.read_requests` reads them.
      endpoint: the server.
      out_path: gets {"id", "text", "finish_reason", ["logprobs"], "request"} by line, in the order
        of the requests once all are through; "request" is a digest of what was asked. Answers to
        ids that are not asked for any more stay, behind.
      failed_path: gets {"id", "step", "error", "tries"} of what has no answer after all tries;
        lines of other steps stay.
      step: named there.
      retry_failed: whether what failed in an earlier run is asked for again.
      total: how many requests there are, for the progress bar.

    Returns:
      How many were `answered`, had been `known`, and `failed`, now or before.

    Raises:
      MmjaxError: the extra or the key is missing, the server refuses the key, or a file cannot be
        read or written.
    """
    check_installed()
    endpoint.key()
    drop_torn(out_path)
    drop_torn(failed_path)
    known = _read_known(out_path)
    failed_before = {name for of, name in _read_failures(failed_path) if of == step}
    given_up = set[str]() if retry_failed else failed_before
    order: dict[str, str] = {}  # digests by id
    counts = Counter[str]()

    def prepared() -> Iterator[_Request]:
        for number, content in enumerate(requests):
            place = f"request {number}"
            name = name_of(place, content, "custom_id", "")
            check_new(place, name, seen)
            body = json.dumps(content["body"], sort_keys=True).encode()
            digest = hashlib.sha256(f"{content['url']}\n".encode() + body).hexdigest()[:16]
            order[name] = digest
            wanted = known.get(name) != digest and name not in given_up
            yield _Request(name, endpoint.url(content["url"]), body, digest, wanted)

    seen = set[str]()
    with writing(out_path):
        out, failed = out_path.open("ab"), failed_path.open("ab")
    with out, failed:
        for request, outcome in track(_results(prepared(), endpoint), f"asking ({step})", total):
            match outcome:
                case None:
                    counts["known" if known.get(request.name) == request.digest else "failed"] += 1
                case Answer():
                    counts["answered"] += 1
                    row = outcome.as_object(request.name) | {"request": request.digest}
                    _append(out, out_path, row)
                case Failure(error, tries):
                    counts["failed"] += 1
                    row = {"id": request.name, "step": step, "error": error, "tries": tries}
                    _append(failed, failed_path, row)
    _settle(out_path, failed_path, step, order)
    return counts


def _results(requests: Iterator[_Request], endpoint: Endpoint) -> Iterator[_Result]:
    """Outcomes as they come; requests are under way while what was yielded is used."""
    # A thread has the event loop, so that notebooks, which have their own, can ask too.
    from anyio.from_thread import start_blocking_portal

    with start_blocking_portal() as portal:
        stream = _stream(requests, endpoint)
        while (result := portal.call(anext, stream, None)) is not None:
            yield result


async def _stream(requests: Iterator[_Request], endpoint: Endpoint) -> AsyncIterator[_Result]:
    async with open_client(endpoint) as client:

        async def outcome(request: _Request) -> _Result:
            return _Result(request, await ask(client, endpoint, request.url, request.body))

        tasks = set[asyncio.Task[_Result]]()
        try:
            for request in requests:
                if not request.wanted:
                    yield _Result(request, None)
                    continue
                tasks.add(asyncio.create_task(outcome(request)))
                while len(tasks) >= endpoint.concurrency:
                    for result in await _some(tasks):
                        yield result
            while tasks:
                for result in await _some(tasks):
                    yield result
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _some(tasks: set[asyncio.Task[_Result]]) -> list[_Result]:
    """Waits for tasks to end, and takes them out."""
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    tasks -= done
    return await asyncio.gather(*done)


def _append(file: BinaryIO, path: Path, content: Mapping[str, Any]) -> None:
    with writing(path):
        file.write(as_line(content).encode())
        file.flush()


def _read_known(path: Path) -> dict[str, str]:
    """{id: digest of what was asked} of answers, the last of each."""
    digests: dict[str, str] = {}
    for place, content in read_jsonl(path) if path.exists() else ():
        name, _ = read_answer(place, content)
        digests[name] = str(content.get("request"))
    return digests


def _read_failures(path: Path) -> dict[tuple[str, str], str]:
    """{(step, id): line} of failures, the last of each."""
    lines = read_jsonl(path) if path.exists() else ()
    return {(str(row.get("step")), str(row.get("id"))): as_line(row) for _, row in lines}


def _settle(out_path: Path, failed_path: Path, step: str, order: Mapping[str, str]) -> None:
    """Writes both files anew, in the order of the requests.

    What is answered is no failure any more, and an answer to another question none.
    """
    digests = _read_known(out_path)
    places, _ = find_answers(out_path, Counter())
    answered = [name for name, digest in order.items() if digests.get(name) == digest]
    names = [*answered, *(name for name in places if name not in order)]
    failures = _read_failures(failed_path)
    for name in answered:
        failures.pop((step, name), None)
    ours = [failures.pop((step, name)) for name in order if (step, name) in failures]
    write_lines(failed_path, [*failures.values(), *ours])
    with out_path.open("rb") as file:

        def line(name: str) -> str:
            file.seek(places[name])
            return file.readline().decode()

        write_lines(out_path, map(line, names))
