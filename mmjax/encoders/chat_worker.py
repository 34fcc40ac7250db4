"""Renders chat templates in a process of its own, which `chat_template.py` starts.

A template is a program: it can loop for ever, or write one letter ten billion times in a single
instruction. Here the kernel ends it. This file stands alone, so that the process starts quickly:
it imports no other part of mmjax, nor transformers' `render_jinja_template`, whose import takes
0.8 s and 58 MB where Jinja's takes 0.06 s and 19 MB; tests compare what both render.
"""

import json
import resource
import signal
import sys
from datetime import datetime
from typing import Any

SECONDS = 2  # of computing, for one conversation
BYTES = 256 << 20  # that the process may hold
LONGEST = 1 << 22  # letters of a rendered conversation


def main() -> None:
    """Answers each line of JSON, a request, with one line of JSON: [whether it went well, text]."""
    sys.path[:] = json.loads(sys.argv[1])
    environment = _environment()
    # Of what is held from here on; a process that is ended by the timer says nothing any more.
    resource.setrlimit(resource.RLIMIT_DATA, (BYTES, BYTES))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    compiled: dict[str, Any] = {}
    for line in sys.stdin:
        request = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            source = request["template"]
            if source not in compiled:
                compiled.clear()
                compiled[source] = environment.from_string(source)
            text = compiled[source].render(request["values"])
            if len(text) > LONGEST:
                raise ValueError(f"it writes {len(text)} letters; at most {LONGEST}")
            answer = json.dumps([True, text])
        except BaseException as error:  # a template may raise anything
            lines = str(error).strip().splitlines()[:1] or [type(error).__name__]
            answer = json.dumps([False, lines[0][:200]])
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(answer, flush=True)


def _environment() -> Any:
    """Jinja as transformers sets it up: sandboxed, block lines trimmed, with a few names more."""
    from jinja2 import TemplateError, nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}`: marks what the assistant said, and changes no text."""

        tags = {"generation"}  # noqa: RUF012  (jinja's own way)

        def parse(self, parser: Any) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.CallBlock(self.call_method("said"), [], [], body).set_lineno(line)

        def said(self, caller: Any) -> str:
            return caller()

    def refuse(message: str) -> None:
        raise TemplateError(message)

    def tojson(
        x: Any,
        ensure_ascii: bool = False,
        indent: Any = None,
        separators: Any = None,
        sort_keys: bool = False,
    ) -> str:
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators,
                          sort_keys=sort_keys)  # fmt: skip

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = tojson  # Jinja's own writes HTML's escapes
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


if __name__ == "__main__":
    main()
