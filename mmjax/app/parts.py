"""Answers as HTML: every text of a visitor or a file is escaped, every picture is in the page."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from mmjax.app.classify import ClassAnswer, Lesson
from mmjax.app.pictures import data_uri
from mmjax.app.search import Found, Hit, PictureIndex

STYLE = Path(__file__).with_name("page.css")
ADAPTED, FROZEN = "With the adapter", "The frozen model"


def hits(result: Found) -> str:
    """What a query found: the adapter's pictures, and the frozen model's beside them."""
    if result.frozen is None:
        return f'<div class="told">{_hits(ADAPTED, "", result.adapted)}</div>'
    return (
        f'<div class="beside told">{_hits(ADAPTED, "", result.adapted)}'
        f"{_hits(FROZEN, 'the same words, without the adapter', result.frozen)}</div>"
    )


def _hits(title: str, note: str, ranking: Sequence[Hit]) -> str:
    rows = "".join(
        f'<li><img src="{data_uri(hit.thumbnail)}" alt="{escape(hit.name)}" '
        f'title="{escape(hit.name)}"><span>{hit.cosine:.3f}</span></li>'
        for hit in ranking
    )
    small = f" <small>{escape(note)}</small>" if note else ""
    return f'<section><h3>{title}{small}</h3><ol class="hits">{rows}</ol></section>'


def overview(gallery: PictureIndex | None, most: int = 24) -> str:
    """What is searched: how many pictures, and the first of them."""
    if gallery is None:
        return '<p class="quiet">No pictures yet: drop some here.</p>'
    count = len(gallery.names)
    rows = "".join(
        f'<li><img src="{data_uri(small)}" alt="{escape(name)}"></li>'
        for name, small in list(zip(gallery.names, gallery.thumbnails, strict=True))[:most]
    )
    shown = f", the first {most} of them" if count > most else ""
    return (
        f'<p class="quiet">{count} picture{"s" * (count > 1)} to search{shown}:</p>'
        f'<ol class="hits small">{rows}</ol>'
    )


def picture(jpeg: bytes | None, alt: str) -> str:
    """One picture, or where it will stand."""
    if jpeg is None:
        return ""
    return f'<img class="one told" src="{data_uri(jpeg)}" alt="{escape(alt)}">'


def answer(reply: ClassAnswer) -> str:
    """What a picture is said to show, in bars."""
    return (
        f'<div class="asked told">{picture(reply.thumbnail, "the picture that was asked about")}'
        f'<div class="beside">{_bars(ADAPTED, reply.adapted)}{_bars(FROZEN, reply.frozen)}'
        "</div></div>"
    )


def _bars(title: str, named: Sequence[tuple[str, float]]) -> str:
    rows = "".join(
        f"<li><span>{escape(name)}</span>"
        f'<i aria-hidden="true"><i style="width:{share:.1%}"></i></i><b>{share:.0%}</b></li>'
        for name, share in named
    )
    return f'<section><h3>{title}</h3><ol class="bars">{rows}</ol></section>'


def lesson(taught: Lesson) -> str:
    """The classes that a visitor teaches, with their pictures."""
    if not taught.shots:
        return '<p class="quiet">No classes yet: add two or more.</p>'
    rows = ""
    for name, shots in taught.shots:
        small = "".join(f'<img src="{data_uri(shot)}" alt="">' for shot in shots)
        count = f"{len(shots)} picture{'s' * (len(shots) != 1)}" if shots else "by its name alone"
        rows += f"<li><b>{escape(name)}</b> <small>{count}</small><div>{small}</div></li>"
    state = "Learned: ask about a picture." if taught.taught else "Not learned yet: press Learn."
    return f'<ul class="lesson">{rows}</ul><p class="quiet" role="status">{state}</p>'
