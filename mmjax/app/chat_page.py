"""The page of an instruct adapter: a talk about a picture, streamed."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr

from mmjax.app import parts
from mmjax.app.limits import refusal
from mmjax.app.page import PageLook, dropped, folded
from mmjax.app.pictures import THUMBNAIL, encoded
from mmjax.app.talk import Exchange, PictureTalk
from mmjax.encoders.pictures import open_image


@dataclass(frozen=True)
class Said:
    """What a visitor's talk is about, and what was said of it.

    Attributes:
      picture: the upload's bytes; None for none.
      exchanges: (question, answer) so far.
    """

    picture: bytes | None = None
    exchanges: tuple[Exchange, ...] = ()


def build(page: PictureTalk, look: PageLook) -> None:
    """Puts the page together, within `gr.Blocks`.

    Args:
      page: answers.
      look: of the page.
    """

    def about(data: bytes) -> tuple[Any, ...]:
        small = encoded(open_image(data), THUMBNAIL)
        return Said(data), parts.picture(small, "the picture that is talked about"), []

    def show(upload: str | None) -> tuple[Any, ...]:
        if not upload:
            return Said(), "", []
        return about(page.limits.read(page.limits.files(upload)[0]))

    def show_sample(event: gr.SelectData) -> tuple[Any, ...]:
        return about(look.samples.files[event.index])

    def answer(question: str, conversation: Said) -> Iterator[tuple[Any, ...]]:
        before = _messages(conversation.exchanges)
        try:
            words = ""
            # Closed when the visitor stops it: then the model stops too.
            with contextlib.closing(
                page.ask(question, conversation.picture, conversation.exchanges)
            ) as pieces:
                for words in pieces:
                    now = [*before, *_messages([(question.strip(), words)])]
                    yield gr.skip(), "", now, refusal("")
            exchanges = (*conversation.exchanges, (question.strip(), words))
            yield Said(conversation.picture, exchanges), "", _messages(exchanges), refusal("")
        except Exception as error:
            yield gr.skip(), gr.skip(), before, look.say(error)

    def anew(conversation: Said) -> tuple[Any, ...]:
        return Said(conversation.picture), []

    look.head()
    conversation = gr.State(Said())
    with gr.Row():
        with gr.Column(scale=2, min_width=260):
            upload = dropped("upload", "A picture")
            offered = look.offered("samples")
            small = folded("picture")
            gr.HTML(f"<p class='quiet'>{look.limits.sentence}</p>")
        with gr.Column(scale=5, min_width=280):
            talk = gr.Chatbot(
                label="The talk", height=380, render_markdown=False, buttons=[], elem_id="talk"
            )
            question = gr.Textbox(
                label="Your question",
                placeholder=look.examples[0] if look.examples else "",
                max_length=look.limits.letters,
                autofocus=True,
            )
            alert = look.alert()
            with gr.Row():
                asking = gr.Button("Ask", variant="primary", min_width=80)
                stopping = gr.Button("Stop", min_width=80)
                beginning = gr.Button("New talk", min_width=80)
            if look.examples:
                gr.Examples([[text] for text in look.examples], [question], label="Try")
    answer_event = gr.on(
        [question.submit, asking.click],
        answer,
        [question, conversation],
        [conversation, question, talk, alert],
        **look.event("ask"),
    )
    # A new picture, or a new talk, ends the answer about the old one.
    outputs = [conversation, small, talk, alert]
    gr.on(
        [upload.upload, upload.clear],
        look.told(show, 3),
        [upload],
        outputs,
        cancels=[answer_event],
        **look.event("picture"),
    )
    if offered is not None:
        offered.select(
            look.told(show_sample, 3), None, outputs, cancels=[answer_event], **look.event("sample")
        )
    stopping.click(None, None, None, cancels=[answer_event])
    gr.on(
        [beginning.click, talk.clear],
        look.told(anew, 2),
        [conversation],
        [conversation, talk, alert],
        cancels=[answer_event],
    )


def _messages(exchanges: Any) -> list[dict[str, str]]:
    """Exchanges as the page shows them: Gradio takes their words for HTML, markdown or not."""
    messages: list[dict[str, str]] = []
    for question, words in exchanges:
        messages += [
            {"role": "user", "content": escape(question, quote=False)},
            {"role": "assistant", "content": escape(words, quote=False)},
        ]
    return messages
