"""Texts: empty ones, long ones, those that stand there twice, and those in another language."""

import re
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from mmjax.errors import MmjaxError
from mmjax.inspection.findings import Finding, Level
from mmjax.inspection.reading import DataRow
from mmjax.synthesis.dedup import Seen, words_of

NEAR = 0.8  # of the words and pairs of words of two texts that are in both
CLIP, BERT = 77, 512  # tokens that these read
_ODD, _ODD_TOKENS = 6, 24  # times the median, and tokens, from which a text is out of place
_LETTERS = 25  # that a text needs before its language is judged alone
_SURE, _LIKELY = 0.95, 0.6  # shares of a language among all, for one text and for a column
_VOTING, _CLEAR = 12, 0.85  # letters and share with which a text has a vote on its column's
_SAMPLE, _ALONE = 300, 40  # texts that a column's language is told from: in all, one by one
_SOME = 0.1  # of the rows: a language that is there on purpose
_UNSPACED = re.compile(r"[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3]")
_MOJIBAKE = re.compile("[ÃÂ][\x80-\xbf]|â€|\ufffd|ï»¿")
_MARKUP = re.compile(r"</?[a-z][a-z0-9]*(\s[^<>]*)?/?>|&(amp|lt|gt|quot|nbsp|#\d+);", re.IGNORECASE)

Tokens = Callable[[str], int]


def estimate(text: str) -> int:
    """About how many tokens a text takes, where no tokenizer is at hand."""
    unspaced = len(_UNSPACED.findall(text))
    return 2 + unspaced + round(1.4 * len(_UNSPACED.sub(" ", text).split()))


def lengths(rows: Sequence[DataRow], column: str, tokens: Tokens = estimate) -> list[int]:
    """Tokens of every text of a column."""
    return [tokens(text) for row in rows for text in row.texts.get(column, ())]


def look_at(rows: Sequence[DataRow], column: str) -> list[Finding]:
    """What is wrong with a column of text.

    Args:
      rows: of the data.
      column: its name.

    Returns:
      Findings.

    Raises:
      MmjaxError: py3langid is missing.
    """
    having = [(row, text) for row in rows for text in row.texts.get(column, ())]
    whole = [(row, text) for row, text in having if text.strip()]
    written = {row.place for row, _ in whole}
    empty = tuple(row.place for row in rows if row.place not in written)
    findings = []
    if empty:
        findings.append(Finding("empty", "error", f"no text under {column!r}", empty))
    size = [estimate(text) for _, text in whole]
    if whole:
        middle = statistics.median(size)
        most = max(_ODD_TOKENS, _ODD * middle)
        odd = _places((row for (row, _), n in zip(whole, size, strict=True) if n > most))
        if odd:
            text = (
                f"{column!r} is over {_ODD} times as long as usual (about {max(size)} tokens "
                f"against {middle:.0f})"
            )
            findings.append(Finding("long", "warning", text, odd))
        limits: tuple[tuple[int, str, Level], ...] = (
            (BERT, "BERT", "warning"),
            (CLIP, "CLIP", "note"),
        )
        for limit, name, level in limits:
            cut = _places((row for (row, _), n in zip(whole, size, strict=True) if n > limit))
            if cut:
                text = f"{column!r} is longer than the {limit} tokens that a {name} reads"
                findings.append(Finding("cut", level, text, cut))
                break
    for kind, pattern, text in (
        ("encoding", _MOJIBAKE, "was read in a wrong encoding once (such as 'Ã¤' for 'ä')"),
        ("markup", _MARKUP, "holds markup"),
    ):
        places = _places((row for row, value in whole if pattern.search(value)))
        if places:
            findings.append(Finding(kind, "warning", f"{column!r} {text}", places))
    return findings + _language(whole, column) + _doubles(whole, column)


def _places(rows: Any) -> tuple[int | str, ...]:
    return tuple(dict.fromkeys(row.place for row in rows))


def _doubles(whole: Sequence[tuple[DataRow, str]], column: str) -> list[Finding]:
    """Texts that were there before; names of classes are meant to be."""
    if all(text.strip() == row.label for row, text in whole):
        return []
    seen, exact, near = Seen(NEAR, 0), [], []
    for row, text in whole:
        words = words_of(text)
        first, same = seen.add(words, str(row.place))
        if first is not None and first != str(row.place):
            (exact if same else near).append(row.place)
    findings = []
    if exact:
        text = f"{column!r} says what an earlier row says"
        findings.append(Finding("same-text", "warning", text, tuple(dict.fromkeys(exact))))
    if near:
        text = f"{column!r} says nearly what an earlier row says"
        findings.append(Finding("near-text", "note", text, tuple(dict.fromkeys(near))))
    return findings


@cache
def _identifier() -> Any:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError as error:
        raise MmjaxError(
            "looking data over needs py3langid and others: python -m pip install 'mmjax[check]'"
        ) from error
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def language_of(texts: Sequence[str]) -> str:
    """The language of texts together, as a code of two letters; "" where they say too little."""
    texts = list(dict.fromkeys(texts))  # a few names of classes say no more for being repeated
    texts = texts[:: max(1, len(texts) // _SAMPLE)]
    counts: Counter[str] = Counter()
    pieces = 0
    for start in range(0, len(texts), 12):  # together: single captions are short
        joined = ". ".join(texts[start : start + 12])
        if sum(c.isalpha() for c in joined) >= 4:
            name, share = _identifier().classify(joined)
            counts[name] += share
            pieces += 1
    best = max(counts, key=lambda name: counts[name], default="")
    if not best or counts[best] < _LIKELY * pieces:
        return ""
    # Several languages in turn make one of them together; one by one the texts disagree.
    votes = Counter(map(_language_alone, texts[:: max(1, len(texts) // _ALONE)]))
    del votes[""]
    return best if votes[best] >= votes.total() / 2 else ""


def _language_alone(text: str) -> str:
    """The language that one text is surely in; "" where it says too little."""
    if sum(c.isalpha() for c in text) < _VOTING:
        return ""
    name, share = _identifier().classify(text)
    return name if share >= _CLEAR else ""


def languages_of(rows: Sequence[DataRow], columns: Sequence[str]) -> Mapping[str, str]:
    """Column -> language that its texts are in."""
    return {
        c: language_of([t for row in rows for t in row.texts.get(c, ()) if t.strip()])
        for c in columns
    }


def _language(whole: Sequence[tuple[DataRow, str]], column: str) -> list[Finding]:
    """A column in another language than its name says, or rows in another than the column."""
    texts = [text for _, text in whole]
    spoken = language_of(texts)
    code = column.partition("-")[0]
    findings = []
    named = len(code) == 2 and code in set(_identifier().labels)
    if named and spoken and spoken != code and _sure(texts, spoken):
        text = f"{column!r} is in {spoken!r}, it seems, not in {code!r}"
        findings.append(Finding("language", "error", text))
    usual = code if named and not findings else spoken
    if not usual:
        count = Counter(map(_language_alone, texts))
        del count[""]
        several = [f"{name!r} ({n})" for name, n in count.items() if n >= _SOME * len(texts)]
        if len(several) > 1:
            text = f"{column!r} is in several languages, it seems: {', '.join(several)}"
            findings.append(Finding("language", "note", text))
        return findings
    by_language: dict[str, list[int | str]] = {}
    for row, text in whole:
        if sum(c.isalpha() for c in text) >= _LETTERS or (
            _UNSPACED.search(text) and usual not in ("zh", "ja", "ko", "th")
        ):
            name, share = _identifier().classify(text)
            if name != usual and share >= _SURE:
                by_language.setdefault(name, []).append(row.place)
    for name, places in by_language.items():
        if len(places) < len(whole) / 2:
            text = f"{column!r} is in {name!r}, it seems, where others are in {usual!r}"
            findings.append(Finding("language", "warning", text, tuple(dict.fromkeys(places))))
    return findings


def _sure(texts: Sequence[str], spoken: str) -> bool:
    joined = ". ".join(texts[:40])
    name, share = _identifier().classify(joined)
    return name == spoken and share >= _SURE
