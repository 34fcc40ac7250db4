"""The page of a few-shot classifier: its own classes, and a visitor's."""

from typing import Any

import gradio as gr

from mmjax.app import parts
from mmjax.app.classify import Classify, Lesson
from mmjax.app.page import PageLook, dropped, folded

LISTED = 60  # classes that the page names


def build(page: Classify, look: PageLook) -> None:
    """Puts the page together, within `gr.Blocks`.

    Args:
      page: classifies.
      look: of the page.
    """

    def ask(upload: str | None) -> tuple[Any, ...]:
        return (parts.answer(page.ask(upload)) if upload else "",)

    def ask_sample(event: gr.SelectData) -> tuple[Any, ...]:
        return (parts.answer(page.ask(look.samples.files[event.index])),)

    def ask_taught_sample(lesson: Lesson, event: gr.SelectData) -> tuple[Any, ...]:
        return (parts.answer(page.ask(look.samples.files[event.index], lesson)),)

    def add(lesson: Lesson, name: str, uploads: list[str] | None) -> tuple[Any, ...]:
        lesson = page.add(lesson, name, uploads)
        return lesson, parts.lesson(lesson), "", None

    def learn(lesson: Lesson, upload: str | None) -> tuple[Any, ...]:
        lesson = page.learn(lesson)
        answer = parts.answer(page.ask(upload, lesson)) if upload else ""
        return lesson, parts.lesson(lesson), answer

    def ask_taught(lesson: Lesson, upload: str | None) -> tuple[Any, ...]:
        return (parts.answer(page.ask(upload, lesson)) if upload else "",)

    def forget() -> tuple[Any, ...]:
        return Lesson(), parts.lesson(Lesson()), "", None

    look.head()
    with gr.Tab("Its own classes"):
        listed = ", ".join(page.classes[:LISTED])
        more = len(page.classes) - LISTED
        gr.Markdown(f"Learned: {listed}{f' and {more} more' if more > 0 else ''}.")
        upload = dropped("upload", "A picture")
        offered = look.offered("samples")
        alert = look.alert()
        shown = folded("answer")
        gr.on(
            [upload.upload, upload.clear],
            look.told(ask, 1),
            [upload],
            [shown, alert],
            **look.event("classify"),
        )
        if offered is not None:
            offered.select(look.told(ask_sample, 1), None, [shown, alert], **look.event("sample"))
    with gr.Tab("Your classes"):
        lesson = gr.State(Lesson())
        with gr.Row():
            with gr.Column():
                name = gr.Textbox(label="Name of a class", max_length=look.limits.letters)
                shots = dropped("shots", "Pictures of it, if you have some", several=True)
                with gr.Row():
                    adding = gr.Button("Add", min_width=80)
                    learning = gr.Button("Learn", variant="primary", min_width=80)
                    forgetting = gr.Button("Forget", min_width=80)
            with gr.Column():
                taught = gr.HTML(parts.lesson(Lesson()), elem_id="lesson")
        own_alert = folded("own-alert")
        own_upload = dropped("asked", "A picture to ask about")
        own_offered = look.offered("own-samples")
        own_shown = folded("own-answer")
        if look.examples:
            gr.Examples([[text] for text in look.examples], [name], label="Try")
        gr.on(
            [adding.click, name.submit],
            look.told(add, 4),
            [lesson, name, shots],
            [lesson, taught, name, shots, own_alert],
            **look.event("add_class"),
        )
        learning.click(
            look.told(learn, 3),
            [lesson, own_upload],
            [lesson, taught, own_shown, own_alert],
            **look.event("learn"),
        )
        gr.on(
            [own_upload.upload, own_upload.clear],
            look.told(ask_taught, 1),
            [lesson, own_upload],
            [own_shown, own_alert],
            **look.event("classify_taught"),
        )
        if own_offered is not None:
            own_offered.select(
                look.told(ask_taught_sample, 1),
                [lesson],
                [own_shown, own_alert],
                **look.event("taught_sample"),
            )
        forgetting.click(
            look.told(forget, 4),
            None,
            [lesson, taught, own_shown, own_upload, own_alert],
            **look.event("forget"),
        )
    gr.HTML(f"<p class='quiet'>{look.limits.sentence}</p>")
