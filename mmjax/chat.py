"""Talks in the terminal with a trained `instruct` adapter, or with a plain language model.

  python -m mmjax.chat --adapter runs/lavin_easyvqa --image photos/0001.jpg
  python -m mmjax.chat --adapter runs/lavin_easyvqa --image a.png --question "what shape is it?"
  python -m mmjax.chat --model asset:smollm2-135m-instruct --temperature 0.7 --top-p 0.9

Answers stream to stdout, all else goes to stderr. In the loop, Ctrl-C breaks an answer off; at the
prompt Ctrl-C and Ctrl-D end.
"""

import argparse
import contextlib
import functools
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from mmjax.checks.parsers import OneLineParser, exit_code, tell
from mmjax.errors import MmjaxError

if TYPE_CHECKING:
    from PIL.Image import Image

COMMANDS = """\
/image PATH  ask about this picture from now on; without a path about none. Starts anew.
/reset       forget what was said
/help        this text
/exit        end (so does Ctrl-D)"""
_ROLES = ("user", "assistant")


@dataclass(frozen=True)
class ChatRequest:
    """What is asked once.

    Attributes:
      question: the words.
      before: (question, answer) of each exchange before it.
      image: that the talk is about, if any.
      number: of the question, from 0.
      on_text: called with (0, piece) for every piece of the answer as it comes.
    """

    question: str
    before: Sequence[tuple[str, str]]
    image: "Image | None"
    number: int
    on_text: Callable[[int, str], None]


Reply: TypeAlias = Callable[[ChatRequest], str]


def parser() -> OneLineParser:
    """The command's arguments."""
    made = OneLineParser(
        prog="python -m mmjax.chat",
        description=__doc__,
        epilog="in the loop:\n" + COMMANDS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    who = made.add_mutually_exclusive_group(required=True)
    who.add_argument("--adapter", metavar="RUN", help="a finished `instruct` run, or its export")
    who.add_argument(
        "--model",
        metavar="SOURCE",
        help="a language model or LLaVA with a chat template, as load_encoder takes it",
    )
    made.add_argument("--image", metavar="PATH", help="the picture that is asked about")
    made.add_argument("--question", metavar="TEXT", help="answer this one and end")
    made.add_number("--max-new-tokens", 64, "N", "of an answer")
    made.add_number("--temperature", 0.0, "T", "above 0 draws tokens; 0 takes the likeliest")
    made.add_argument(
        "--top-p", type=float, default=1.0, metavar="P", help="draw from the likeliest share P only"
    )
    made.add_number("--seed", 0, "S", "of the draws")
    made.add_argument(
        "--history",
        type=int,
        metavar="N",
        help="earlier questions and answers that are read again (default: all; none where an "
        "adapter's recipe learned single questions)",
    )
    made.add_allow_other_encoder()
    made.add_argument("--dtype", choices=["float32", "bfloat16"], help="of --model")
    made.add_argument("--quantize", choices=["int8", "nf4"], help="of --model: kernels")
    return made


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options, checked as far as no model is needed."""
    made = parser()
    options = made.parse_args(arguments)
    if options.question is not None and not options.question.strip():
        made.error("--question is empty")
    made.at_least_1(options, "max_new_tokens")
    good = options.temperature == 0 or 1e-6 <= options.temperature <= 1e6
    if not good or not 0 < options.top_p <= 1:
        made.error("--temperature must be at least 0 and --top-p in (0, 1]")
    if options.top_p < 1 and not options.temperature:
        made.error("--top-p needs a --temperature above 0")
    if not 0 <= options.seed < 2**32:
        made.error(f"--seed {options.seed} must be at least 0 and below 2**32")
    if options.history is not None and options.history < 0:
        made.error(f"--history {options.history} must be at least 0")
    if options.adapter and (options.dtype or options.quantize):
        made.error("--dtype and --quantize are of --model; an adapter's card says its own")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Answers one question, or every line of stdin.

    Args:
      arguments: instead of the command line's.

    Returns:
      Exit code: 0, 2 after one sentence on stderr, or 130 where Ctrl-C broke off the start or the
      only answer.
    """
    options = _options(arguments)
    return exit_code(functools.partial(_start, options), stopped=130)


def _start(options: argparse.Namespace) -> None:
    """Everything that imports jax."""
    from absl import logging as absl_logging

    from mmjax import assets
    from mmjax.encoders.image_preprocess import open_image
    from mmjax.processes import starting

    absl_logging.set_verbosity(absl_logging.WARNING)  # Orbax tells every file it touches
    starting.set_up(0, None, assets.cache_dir() / "compiled")
    picture = None if options.image is None else open_image(options.image)
    reply, talks, blind = _of_adapter(options) if options.adapter else _of_model(options)
    kept = options.history
    if kept is None:
        kept = sys.maxsize if talks else 0
    talk = Talk(reply, kept, blind=blind)
    talk.restart(picture)
    if options.question is not None:
        talk.ask(options.question)
    else:
        _loop(talk)


def _of_adapter(options: argparse.Namespace) -> tuple[Reply, bool, str]:
    """What answers, whether it learned conversations rather than single questions, and `blind`."""
    from mmjax.runs.adapter_files import find_adapter, read_card
    from mmjax.tasks.catalog import definition_of
    from mmjax.tasks.instruct.answering import Answering

    folder = find_adapter(Path(options.adapter))
    card = read_card(folder)
    task = card["stage"]["task"]
    if not definition_of(task).answers:
        raise MmjaxError(
            f"{folder} is an adapter of the task {task!r}, which answers no questions; give the "
            "run folder of an `instruct` recipe"
        )
    tell(f"loading {folder} and its frozen models ...")
    adapted = definition_of(task).load(folder, options.allow_other_encoder, None)
    assert isinstance(adapted, Answering)
    tell(f"{card['recipe']}: {card['trainable']['count']:,} trained parameters")
    sampling, key = _sampling(options)

    def reply(turn: ChatRequest) -> str:
        (answer,) = adapted.answer(
            [turn.question],
            None if turn.image is None else [turn.image],
            options.max_new_tokens,
            sampling,
            key(turn.number),
            [turn.before],
            turn.on_text,
            look_every=1,
        )
        return answer.text

    sees = "image" in card["stage"]["encoders"]
    return reply, adapted.talks, "" if sees else f"{folder} was trained without pictures"


def _of_model(options: argparse.Namespace) -> tuple[Reply, bool, str]:
    """What answers, that it talks, and why it reads no pictures; "" where it does."""
    from mmjax import sharding
    from mmjax.encoders import LanguageModel, load_encoder
    from mmjax.generation import generate

    tell(f"loading {options.model} ...")
    mesh = sharding.make_mesh()
    model = load_encoder(
        options.model,
        options.dtype or "float32",
        mesh=mesh if mesh.size > 1 else None,
        quantize=options.quantize,
    )
    if not isinstance(model, LanguageModel):
        raise MmjaxError(
            f"{options.model} is a {model.family} encoder, which says nothing; give a language "
            "model"
        )
    if model.chat.template is None:
        raise MmjaxError(
            f"{options.model} has no chat template, so it was not taught to chat; continue texts "
            "with mmjax.generation.generate"
        )
    sampling, key = _sampling(options)
    blind = "" if model.images is not None else f"{options.model} reads no pictures; a LLaVA does"

    def reply(turn: ChatRequest) -> str:
        pairs = (zip(_ROLES, pair, strict=True) for pair in turn.before)
        talk = [*itertools.chain.from_iterable(pairs), ("user", turn.question)]
        messages = [_message(role, text, model.images is not None) for role, text in talk]
        if turn.image is not None:
            messages[0]["content"].insert(0, {"type": "image", "image": turn.image})
        (answer,) = generate(
            model,
            [messages],
            options.max_new_tokens,
            sampling,
            key(turn.number),
            on_text=turn.on_text,
            look_every=1,
        )
        return answer.text

    return reply, True, blind


def _message(role: str, text: str, in_parts: bool) -> dict[str, Any]:
    """One message; templates of models that read pictures go through its parts."""
    return {"role": role, "content": [{"type": "text", "text": text}] if in_parts else text}


def _sampling(options: argparse.Namespace) -> tuple[Any, Callable[[int], Any]]:
    """How tokens are drawn, and the key of a question by its number."""
    import jax

    from mmjax.generation import Sampling

    if not options.temperature:
        return None, lambda number: None
    base = jax.random.key(options.seed)
    sampling = Sampling(options.temperature, top_p=options.top_p)
    return sampling, lambda number: jax.random.fold_in(base, number)


@dataclass
class Talk:
    """What was said so far, and about what.

    Attributes:
      reply: answers a question.
      kept: exchanges that are read again, at most.
      picture: what is asked about; None for nothing.
      exchanges: (question, answer) since the last reset.
      questions: so far; each draws its own random tokens.
      blind: why no picture can be asked about; "" where one can.
    """

    reply: Reply
    kept: int
    picture: "Image | None" = None
    exchanges: list[tuple[str, str]] = field(default_factory=list)
    questions: int = 0
    blind: str = ""

    def ask(self, question: str) -> None:
        """Prints the answer as it comes."""
        before = self.exchanges[len(self.exchanges) - min(self.kept, len(self.exchanges)) :]
        begun = False

        def show(_: int, piece: str) -> None:
            nonlocal begun
            piece = piece if begun else piece.lstrip()  # answers begin with a space
            begun = begun or bool(piece)
            print(piece, end="", flush=True)

        self.questions += 1
        try:
            answer = self.reply(
                ChatRequest(question, before, self.picture, self.questions - 1, show)
            )
        finally:
            if begun:
                print(flush=True)
        if answer.strip():
            self.exchanges.append((question, answer.strip()))
        else:
            tell("(an empty answer)")

    def restart(self, picture: "Image | None") -> None:
        """Forgets what was said.

        Raises:
          MmjaxError: a picture where none can be read; what was said stays.
        """
        if picture is not None and self.blind:
            raise MmjaxError(self.blind)
        self.picture, self.exchanges = picture, []


def _loop(talk: Talk) -> None:
    """Asks line by line, until /exit, the end of stdin or Ctrl-C at the prompt."""
    tell("type a question; /help says what else")
    for line in _lines():
        word, _, rest = line.partition(" ")
        try:
            if word == "/exit":
                return
            if word == "/help":
                tell(COMMANDS)
            elif word == "/reset":
                talk.restart(talk.picture)
            elif word == "/image":
                talk.restart(_opened(rest.strip().strip("'\"")))
            elif word.startswith("/"):
                tell(f"error: there is no command {word}; /help lists them")
            else:
                talk.ask(line)
        except MmjaxError as error:
            tell(f"error: {error}")
        except KeyboardInterrupt:
            tell("(stopped)")


def _opened(path: str) -> "Image | None":
    from mmjax.encoders.image_preprocess import open_image

    return open_image(Path(path).expanduser()) if path else None


def _lines() -> Iterator[str]:
    """Lines of stdin that say something; on a terminal with a prompt and line editing."""
    terminal = sys.stdin.isatty()
    if terminal:
        with contextlib.suppress(ImportError):  # not on every platform
            import readline  # noqa: F401  # input() uses it once it is imported
    while True:
        try:
            line = input("> " if terminal else "")
        except (EOFError, KeyboardInterrupt):
            if terminal:
                print()
            return
        if line.strip():
            yield line.strip()


if __name__ == "__main__":
    sys.exit(main())
