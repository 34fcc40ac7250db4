"""Tasks that another program writes: requests in a file, or a server that is asked."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmjax.data.files import read_jsonl
from mmjax.data.turn_records import read_records
from mmjax.specs.synthesis import SynthesisSpec
from mmjax.synthesis import requests
from mmjax.synthesis.client import run_requests
from mmjax.synthesis.endpoint import Endpoint
from mmjax.synthesis.parse import parse_triplets
from mmjax.synthesis.parts import Failure
from mmjax.synthesis.quality import FAILED, PAIRS

REQUESTS, RESPONSES = "requests.jsonl", "responses.jsonl"


def has_answers(
    spec: SynthesisSpec, folder: Path, failures: dict[str, Failure], retry_failed: bool
) -> bool:
    """Asks the server for what is not answered yet; without one, writes the requests.

    Args:
      spec: names the program.
      folder: of the run.
      failures: gets those of which no request can be made.
      retry_failed: whether what failed before is asked for again.

    Returns:
      Whether there are answers to read; where not, it is told what to do.

    Raises:
      MmjaxError: as `run_requests` and `export_requests`.
    """
    own, pairs = spec.requests, folder / PAIRS
    how = requests.Asking(own.model, own.sees, own.max_tokens, seed=spec.seed)
    body = requests.ask_tasks(how, count=spec.generate.triplets)
    if own.base_url:
        server = Endpoint(own.base_url, own.key_variable, own.concurrency, own.tries, own.timeout)
        batch = requests.requests_of(read_records(pairs), body, failures.__setitem__)
        total = sum(1 for _ in read_jsonl(pairs))
        paths = folder / RESPONSES, folder / FAILED
        run_requests(batch, server, *paths, "generate", retry_failed, total)
        for _, row in read_jsonl(folder / FAILED):  # why they failed, and after how many tries
            failures[str(row["id"])] = Failure(str(row["error"]), int(row["tries"]))
    elif not (folder / RESPONSES).exists():
        path = folder / REQUESTS
        count = requests.export_requests(read_records(pairs), path, body, failures.__setitem__)
        print(
            f"{count} requests are in {path}; put the answers into {folder / RESPONSES}, and give "
            "the same command again"
        )
        return False
    return True


def outcomes(
    spec: SynthesisSpec, folder: Path, failures: dict[str, Failure]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (row of the pairs, what was answered about it), in the order of the pairs.

    Args:
      spec: says how many tasks are taken.
      folder: of the run.
      failures: gets those without an answer.

    Raises:
      DataError: a line that is no answer.
    """
    pairs = folder / PAIRS

    def fail(name: str, failure: Failure) -> None:
        failures.setdefault(name, failure)  # why the server's client gave it up says more

    replies = requests.import_responses(folder / RESPONSES, read_records(pairs), fail)
    rows = {record.id: row for row, record in enumerate(read_records(pairs))}
    for reply in replies:
        tasks = parse_triplets(reply.text, spec.generate.triplets)
        yield (
            rows[reply.item.id],
            {
                "raw": reply.text,
                "finished": reply.finish_reason == "stop",
                "triplets": [task.as_object() for task in tasks],
            },
        )
