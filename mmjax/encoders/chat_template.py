"""Chat templates: messages to a prompt, in a process whose time and memory are bounded."""

import atexit
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmjax.encoders import chat_worker
from mmjax.errors import MmjaxError

_lock = threading.Lock()
_worker: "tuple[int, subprocess.Popen[str]] | None" = None  # (the process that started it, itself)


def render(
    template: str, messages: Sequence[Mapping[str, Any]], special_tokens: Mapping[str, str]
) -> str:
    """Renders a conversation, up to the answer's first token, as transformers does.

    The first call starts a process, which later ones share; it ends with this one.

    Args:
      template: Jinja text.
      messages: {"role": ..., "content": ...}, in turn; of a picture the template sees that there
        is one.
      special_tokens: {"bos_token": text, ...}.

    Returns:
      The prompt.

    Raises:
      MmjaxError: the template refuses the messages, fails, or takes too much time or memory.

    Source:
      apply_chat_template in transformers.
    """
    # What is None is not there, as in transformers, where templates tell the two apart.
    plain_messages = [
        {k: _plain(v) for k, v in message.items() if v is not None} for message in messages
    ]
    values = {**special_tokens, "messages": plain_messages, "add_generation_prompt": True}
    values |= {"tools": None, "documents": None}
    answer = _ask(json.dumps({"template": template, "values": values}))
    if answer is None:
        raise MmjaxError(
            f"the chat template takes more than {chat_worker.SECONDS} s or "
            f"{chat_worker.BYTES >> 20} MiB for {len(messages)} messages; use another template"
        )
    good, text = json.loads(answer)
    if not good:
        raise MmjaxError(f"the chat template refuses the messages: {text}")
    return text


def _plain(value: Any) -> Any:
    """A value in JSON's types; anything else is named."""
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return f"<{type(value).__name__}>"


def _ask(request: str) -> str | None:
    """One request to the worker; None where it came to its end over it."""
    with _lock:
        worker = _running()
        assert worker.stdin is not None
        assert worker.stdout is not None
        try:
            worker.stdin.write(request + "\n")
            worker.stdin.flush()
            answer = worker.stdout.readline()
        except OSError:
            answer = ""
        if not answer:
            _stop()
        return answer or None


def _running() -> "subprocess.Popen[str]":
    """The worker of this process: one that a parent started before a fork is not shared."""
    global _worker
    if _worker is None or _worker[0] != os.getpid():
        # Neither the environment's nor the site's start-up files are run: the paths are enough.
        command = [
            sys.executable,
            "-I",
            "-S",
            str(Path(chat_worker.__file__)),
            json.dumps(sys.path),
        ]
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
        )
        _worker = os.getpid(), process
        atexit.register(_stop)
    return _worker[1]


def _stop() -> None:
    """Ends the worker, if it is this process's own."""
    global _worker
    if _worker is None or _worker[0] != os.getpid():
        return
    process = _worker[1]
    process.kill()
    process.communicate()  # closes its pipes too
    _worker = None
    atexit.unregister(_stop)
