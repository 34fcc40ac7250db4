"""The page of a dual encoder: pictures found by a text."""

from typing import Any

import gradio as gr

from mmjax.app import parts
from mmjax.app.page import PageLook, dropped, folded
from mmjax.app.search import PictureIndex, Search


def build(page: Search, gallery: PictureIndex | None, look: PageLook) -> None:
    """Puts the page together, within `gr.Blocks`.

    Args:
      page: searches.
      gallery: what everybody may search; None where visitors bring all pictures.
      look: of the page.
    """

    def find(query: str, own: PictureIndex | None) -> tuple[Any, ...]:
        return (parts.hits(page.find(query, own or gallery)),)

    def bring(uploads: list[str] | None) -> tuple[Any, ...]:
        if not uploads:
            return None, parts.overview(gallery), ""
        own = page.of_uploads(uploads)
        return own, parts.overview(own), ""

    look.head()
    with gr.Row(equal_height=True):
        query = gr.Textbox(
            label="What are you looking for?",
            placeholder=look.examples[0] if look.examples else "",
            max_length=look.limits.letters,
            autofocus=True,
            scale=5,
        )
        button = gr.Button("Search", variant="primary", scale=1, min_width=120)
    alert = look.alert()
    own = gr.State(None)
    examples = None
    if look.examples:
        examples = gr.Examples([[text] for text in look.examples], [query], label="Try")
    shown = folded("found")
    with gr.Accordion("The pictures that are searched", open=gallery is None):
        overview = gr.HTML(parts.overview(gallery))
        uploads = dropped("upload", "Your own pictures instead", several=True)
        gr.HTML(f"<p class='quiet'>{look.limits.sentence}</p>")
    handler = look.told(find, 1)
    event = look.event("search")
    gr.on([query.submit, button.click], handler, [query, own], [shown, alert], **event)
    if examples is not None:
        examples.load_input_event.then(
            handler, [query, own], [shown, alert], **look.event("example")
        )
    brought = look.told(bring, 3)
    gr.on(
        [uploads.upload, uploads.clear, uploads.delete],
        brought,
        [uploads],
        [own, overview, shown, alert],
        **look.event("pictures"),
    )
