"""The recipe that fits data, and what of the data it reads."""

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmjax.errors import MmjaxError
from mmjax.inspection.draft import LEAST, Draft, Wanted, has_text
from mmjax.inspection.kinds import TASKS
from mmjax.inspection.look import Look
from mmjax.inspection.reading import DataRow
from mmjax.inspection.sides import CLASS_ROWS, leaking
from mmjax.inspection.written import recipe_file
from mmjax.specs.families import family_of


@dataclass(frozen=True)
class CheckedRecipe:
    """A recipe and what it reads.

    Attributes:
      text: of the recipe's file.
      settings: the same as data.
      rows: of a mended copy of the data; empty where the data is read as it is.
      notes: why it is as it is, a sentence each.
    """

    text: str
    settings: Mapping[str, Any]
    rows: tuple[Mapping[str, Any], ...]
    notes: tuple[str, ...]


def plan(look: Look, wanted: Wanted) -> CheckedRecipe:
    """Makes a recipe.

    Args:
      look: at the data.
      wanted: the task and what the user chose.

    Returns:
      The recipe.

    Raises:
      MmjaxError: the data has not what the task needs; says which does fit.
    """
    if wanted.task not in TASKS:
        raise MmjaxError(f"there is no recipe for {wanted.task!r}; known: {', '.join(TASKS)}")
    what, make = TASKS[wanted.task]
    languages = _languages(look, wanted)
    draft = _draft(look, wanted, languages)
    settings, tiny = make(draft)
    mended = () if draft.source == look.data.source else tuple(_mended(draft))
    facts = [f"  {name}: {value}" for name, value in look.summary()]
    command = f"mmjax train {wanted.folder / wanted.name}.py"
    paragraphs = [
        f"  {command}:tiny   # a try\n  {command}",
        "\n".join([f"Written by `mmjax new` for {look.data.source}:", "", *facts]),
        *draft.notes,
    ]
    text = recipe_file(f"{what}, from {look.data.source}.", paragraphs, settings, tiny)
    return CheckedRecipe(text, settings, mended, tuple(draft.notes))


def _languages(look: Look, wanted: Wanted) -> tuple[str, str]:
    """(added, known): as asked for, or as the columns say."""
    added, known = wanted.languages
    there = [c for c in look.data.columns if c in look.languages and len(c) == 2]
    if not known:
        others = [c for c in there if c != added]
        spoken = look.languages.get("caption") or "en"
        known = "en" if "en" in others or not others else others[0]
        known = spoken if not others and "caption" in look.data.columns else known
    return added or known, known


def _draft(look: Look, wanted: Wanted, languages: tuple[str, str]) -> Draft:
    """Chooses the rows, and says what is left out and why."""
    data, notes, bad = look.data, [], set(look.unreadable)
    needed = {"language": languages, "contrastive": languages[1:]}.get(wanted.task, ())
    if data.is_parallel:
        needed = ()
    for column in needed:
        has = {i for i, row in enumerate(data.rows) if has_text(row, column, languages[1])}
        if not has:
            raise MmjaxError(
                f"{data.source} has no texts in {column!r}, which {wanted.task!r} needs; its "
                f"columns of text are {list(data.columns)}: {_fitting(look)}"
            )
        bad |= set(range(len(data.rows))) - has
    labelled = family_of(wanted.task).learns_labels
    if labelled:
        count = Counter(row.label for i, row in enumerate(data.rows) if i not in bad and row.label)
        if len(count) < 2:
            raise MmjaxError(
                f"{data.source} has {len(count)} classes, of which {wanted.task!r} needs two and "
                f"more: {_fitting(look)}"
            )
        rare = {label for label, n in count.items() if n < CLASS_ROWS}
        if len(count) - len(rare) < 2:
            raise MmjaxError(
                f"{data.source} has {len(count) - len(rare)} classes with {CLASS_ROWS} rows and "
                f"more, of which {wanted.task!r} needs two and more: {_fitting(look)}"
            )
        bad |= {i for i, row in enumerate(data.rows) if not row.label or row.label in rare}
        if rare:
            notes.append(
                f"left out, with fewer than {CLASS_ROWS} pictures: {', '.join(sorted(rare))}"
            )
    if lost := leaking(data.rows, look.doubles) - bad:
        notes.append(f"left out: {len(lost)} rows beside the test whose picture it has too")
        bad |= lost
    kept = [i for i in range(len(data.rows)) if i not in bad]
    if len(kept) < LEAST:
        raise MmjaxError(
            f"{data.source} has {len(kept)} rows that can be used, at least {LEAST} are needed; "
            f"see `mmjax check {data.source}`"
        )
    if len(bad) > len(lost):
        notes.append(f"{len(bad)} of {len(data.rows)} rows are left out; `mmjax check` says why")
    torn = [g for g in look.doubles.near if len({data.rows[i].family for i in g} - {""}) != 1]
    source = data.source
    if bad or torn or data.faults:
        source = str(wanted.folder / f"{wanted.name}.jsonl")
        notes.append(
            f"{source} is a mended copy of the data: rows that cannot be used are left out, and "
            "what shows the same picture is one family, which no split tears apart"
        )
    rows = [data.rows[i] for i in kept]
    return Draft(wanted, look, rows, kept, languages, source, notes)


def _fitting(look: Look) -> str:
    """Which tasks the data is good for."""
    data, tasks = look.data, []
    if len(set(data.labels)) > 1:
        tasks += ["prompts", "projection"]
    if data.is_parallel or sum(len(c) == 2 for c in data.columns) > 1:
        tasks.append("language")
    if data.columns and not data.is_parallel:
        tasks.append("contrastive")
    return f"it fits {' and '.join(map(repr, tasks))}" if tasks else "it fits no task yet"


def _mended(draft: Draft) -> list[Mapping[str, Any]]:
    """The rows that are used, with families that keep what shows the same together."""
    group = draft.look.doubles.group_of()
    names = {
        g: _name(draft.look.data.rows[rows[0]]) for g, rows in enumerate(draft.look.doubles.near)
    }
    contents = []
    for i, row in zip(draft.kept, draft.rows, strict=True):
        mended = dict(row.content)
        if row.image is not None:
            mended["image"] = os.path.relpath(row.image, draft.wanted.folder)
            mended["id"] = _name(row)
        if i in group:
            mended["family"] = row.family or names[group[i]]
        contents.append(mended)
    return contents


def _name(row: DataRow) -> str:
    return str(row.content.get("id") or row.image)


def as_jsonl(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as a file."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
