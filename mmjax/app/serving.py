"""Serves a page with Gradio; whoever imports this module has the extra `app`."""

import threading
from dataclasses import dataclass
from pathlib import Path

import gradio as gr
from gradio import networking
from starlette.middleware import Middleware

from mmjax.app import chat_page, classify_page, parts, search_page
from mmjax.app.classify import Classify
from mmjax.app.guard import KEPT, Guard
from mmjax.app.page import PageLook, fetch_nothing, theme
from mmjax.app.search import PictureIndex, Search
from mmjax.app.talk import PictureTalk
from mmjax.errors import MmjaxError

SESSIONS = 100  # visitors whose pictures and talks are remembered
SWEPT = 600  # seconds between two looks at how old uploads are


@dataclass(frozen=True)
class Door:
    """Where a page is served.

    Attributes:
      host: the address that is listened on.
      port: of it; 0 takes a free one.
      share: whether Gradio's servers give it a public address.
      uploads: the folder where uploaded files are kept.
    """

    host: str
    port: int
    share: bool
    uploads: Path


def made(
    page: Search | Classify | PictureTalk, gallery: PictureIndex | None, look: PageLook
) -> gr.Blocks:
    """The page of an adapter.

    Args:
      page: what it does.
      gallery: what everybody may search.
      look: of the page.

    Returns:
      Gradio's blocks, with their queue.
    """
    fetch_nothing()
    blocks = gr.Blocks(title=look.title, analytics_enabled=False, delete_cache=(SWEPT, KEPT))
    with blocks:
        if isinstance(page, Search):
            search_page.build(page, gallery, look)
        elif isinstance(page, Classify):
            classify_page.build(page, look)
        else:
            chat_page.build(page, look)
    return blocks.queue(
        max_size=look.limits.waiting, default_concurrency_limit=look.concurrency, api_open=False
    )


def serve(blocks: gr.Blocks, look: PageLook, door: Door) -> None:
    """Serves a page until the process is interrupted.

    Args:
      blocks: the page.
      look: of it.
      door: where.

    Raises:
      MmjaxError: the address cannot be listened on.
    """
    # Gradio gives a request to itself three seconds, which are too few on a busy machine. Where it
    # cannot be reached at all, an earlier one has failed by then.
    networking.url_ok = lambda url: True
    guard = Middleware(Guard, limits=look.limits, uploads=door.uploads)  # pyright: ignore[reportArgumentType]
    try:
        _, url, shared = blocks.launch(
            server_name=door.host,
            server_port=door.port or None,
            share=door.share,
            quiet=True,
            show_error=False,
            prevent_thread_lock=True,
            max_file_size=look.limits.file_bytes,
            state_session_capacity=SESSIONS,
            theme=theme(),
            css_paths=[parts.STYLE],
            footer_links=[],
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            run_history=False,
            enable_monitoring=False,
            app_kwargs={"middleware": [guard], "docs_url": None, "redoc_url": None},
        )
    except OSError as error:
        raise MmjaxError(
            f"cannot listen on {door.host}:{door.port} ({error}); give another --port"
        ) from error
    if door.share and not shared:
        blocks.close(verbose=False)
        raise MmjaxError("Gradio's servers gave no public address; is there a way to them?")
    print(f"serving {url}{f' and {shared}' if shared else ''} (Ctrl-C ends)", flush=True)
    try:
        threading.Event().wait()
    finally:
        blocks.close(verbose=False)
