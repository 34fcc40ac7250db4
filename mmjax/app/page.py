"""What every page has: its head, its alert, how failures are told, and how examples are clicked."""

import functools
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.blocks import Block
from gradio.themes import Base, Soft

from mmjax.app.limits import BROKEN, Limits, refusal, without_paths
from mmjax.app.pictures import SamplePictures
from mmjax.encoders.pictures import open_image
from mmjax.errors import MmjaxError

QUEUE = "models"  # what all events that ask a model share


@dataclass(frozen=True)
class PageLook:
    """How a page is made.

    Attributes:
      title: of the page.
      about: one sentence on what it does.
      examples: texts to click on.
      limits: of what a visitor may send.
      concurrency: visitors that the models answer at a time.
      private: folders of the host that no sentence may name.
      samples: pictures to click on.
    """

    title: str
    about: str
    examples: Sequence[str]
    limits: Limits
    concurrency: int
    private: Sequence[str] = ()
    samples: SamplePictures = field(default_factory=SamplePictures)

    def head(self) -> gr.HTML:
        """The page's first lines."""
        return gr.HTML(f"<h1>{escape(self.title)}</h1><p class='quiet'>{escape(self.about)}</p>")

    def offered(self, name: str) -> gr.Gallery | None:
        """Pictures to click on, where there are any; `name` is their place's id."""
        if not self.samples.files:
            return None
        return gr.Gallery(
            [(open_image(small), None) for small in self.samples.thumbnails],
            label="Or one of these",
            elem_id=name,
            elem_classes="offered",
            columns=3,
            height="auto",
            allow_preview=False,
            interactive=False,
            buttons=[],
        )

    def alert(self) -> gr.HTML:
        """Where refusals stand; empty at first."""
        return folded("alert")

    def event(self, name: str) -> dict[str, Any]:
        """How an event that asks a model is queued, and what its address is called."""
        return {
            "api_name": name,
            "concurrency_id": QUEUE,
            "concurrency_limit": self.concurrency,
            "trigger_mode": "once",
        }

    def say(self, error: Exception) -> str:
        """A failure as the page's alert.

        Args:
          error: of mmjax's own the sentence is shown, without paths; of others no more than that
            they happened. Whoever runs the page reads them in its terminal.

        Returns:
          HTML.
        """
        if isinstance(error, MmjaxError):
            return refusal(without_paths(str(error), self.private))
        print("".join(traceback.format_exception(error)), file=sys.stderr, flush=True)
        return refusal(BROKEN)

    def told(self, handler: Callable[..., tuple[Any, ...]], keep: int) -> Callable[..., Any]:
        """A handler whose failures become the alert.

        Args:
          handler: returns what its outputs show, all but the alert.
          keep: how many outputs stay as they are where it fails.

        Returns:
          The same with the alert behind its outputs.
        """

        @functools.wraps(handler)
        def answered(*inputs: Any) -> tuple[Any, ...]:
            try:
                return (*handler(*inputs), refusal(""))
            except Exception as error:
                return (*[gr.skip()] * keep, self.say(error))

        return answered


def folded(name: str) -> gr.HTML:
    """Where something will stand, and nothing is until then; `name` is its id."""
    return gr.HTML("", elem_id=name, elem_classes="folded")


def dropped(name: str, label: str, several: bool = False) -> gr.File:
    """A place to drop pictures.

    Args:
      name: its id.
      label: above it.
      several: whether it takes more than one.

    Returns:
      The place.
    """
    return gr.File(
        label=label,
        file_count="multiple" if several else "single",
        file_types=["image"],
        height=180,
        elem_id=name,
    )


def fetch_nothing() -> None:
    """Makes Gradio refuse what a client names by an address: it would fetch that for a visitor.

    Of the class, as Gradio makes a component anew whenever it changes; of the base class, as any
    input may be sent so.
    """
    take = Block.async_move_resource_to_block_cache

    async def take_uploads(self: Block, url_or_file_path: str | Path | None) -> str | None:
        if "://" in str(url_or_file_path):
            raise gr.Error("Only uploaded files are read.", print_exception=False)
        return await take(self, url_or_file_path)

    Block.async_move_resource_to_block_cache = take_uploads


def theme() -> Base:
    """Fonts that every system has: nothing is fetched from anybody."""
    return Soft(
        primary_hue="indigo",
        neutral_hue="slate",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    ).set(  # letters stand out from what is behind them by 4.5 to 1
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_label_text_color="*primary_700",
        block_title_text_color="*primary_700",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_300",
    )
