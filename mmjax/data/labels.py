"""Classes of items: their names by language, which of them are read, and which are left out."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmjax.checks.foreign import text
from mmjax.data.splits import development_pool
from mmjax.errors import MmjaxError, setting, shown

if TYPE_CHECKING:
    from mmjax.data.records import Corpus, Item
    from mmjax.specs.data import PairsSpec

UNLABELLED = "(no label)"


@dataclass(frozen=True)
class LeftOut:
    """A class that nothing is trained on and nothing is asked about.

    Attributes:
      label: of the class; "" for items without one.
      items: how many it has.
      why: the setting that leaves it out.
      wanted: whether the setting names the class itself.
    """

    label: str
    items: int
    why: str
    wanted: bool = False


def sentences(left_out: Iterable[LeftOut]) -> list[str]:
    """What is left out, one sentence a reason, every class with its number of items."""
    by_reason: dict[str, list[LeftOut]] = {}
    for entry in left_out:
        by_reason.setdefault(entry.why, []).append(entry)
    return [
        f"Left out ({why}): "
        + ", ".join(f"{entry.label or UNLABELLED} ({entry.items})" for entry in entries)
        + "."
        for why, entries in by_reason.items()
    ]


class Names:
    """Names of the classes of a JSON-lines file, gathered row by row.

    A row's `label` is the class in the last of the recipe's languages, `label_LANG` its name in
    another; or `label` is an object with its name in each of them.
    """

    def __init__(self, languages: Sequence[str]) -> None:
        """Nothing is read yet."""
        self._languages = languages
        self.names: dict[str, dict[str, str]] = {}
        self.places: dict[str, str] = {}  # "FILE, row N" where a class stands first
        self._said: dict[tuple[str, str], str] = {}

    def read(self, place: str, row: Mapping[str, Any]) -> str:
        """A row's class, "" for none.

        Raises:
          MmjaxError: a label that is no text, lacks a language, or has two names in one.
        """
        label, own = row.get("label"), {}
        if isinstance(label, Mapping):
            where = f"{place}, label"
            own = {lang: _text(where, lang, label.get(lang)) for lang in self._languages}
            label = own[self._languages[-1]]
        elif label is None or label == "":
            label = ""
        else:
            label = _text(place, "label", label)
        for lang in self._languages:
            key = f"label_{lang}"
            if row.get(key) is not None:
                own[lang] = _text(place, key, row[key])
                if not label:
                    raise MmjaxError(
                        f"{place}: {key!r} has no 'label' beside it, which is the class's name in "
                        f"{self._languages[-1]!r}"
                    )
        if not label:
            return ""
        own.setdefault(self._languages[-1], label)
        self.places.setdefault(label, place)
        names = self.names.setdefault(label, {})
        for lang, name in own.items():
            if names.setdefault(lang, name) != name:
                raise MmjaxError(
                    f"{place}: the label {label!r} is {name!r} in {lang!r}, but {names[lang]!r} at "
                    f"{self._said[label, lang]}; give a class one name in a language"
                )
            self._said.setdefault((label, lang), place)
        return label


def _text(place: str, key: str, value: object) -> str:
    """A class's name; a whole number is taken for one."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise MmjaxError(
            f"{place}: {key!r} is {shown(value)}; expected a text that is not empty, or one by "
            "language"
        )
    return text(f"{place}: {key!r}", value.strip())


def check_names(corpus: "Corpus", language: str) -> None:
    """Refuses classes that are asked for in a language in which they have no name.

    Raises:
      MmjaxError: names the first of them.
    """
    used = dict.fromkeys(item.label for item in corpus.items if item.label)
    lacking = [label for label in used if language not in corpus.labels.get(label, {})]
    if not lacking:
        return
    label = lacking[0]
    place = corpus.places.get(label, corpus.name)
    others = f" (nor have {len(lacking) - 1} other labels)" if len(lacking) > 1 else ""
    raise MmjaxError(
        f"{place}: the label {label!r} has no name in {language!r}{others}; write it there as "
        f'"label_{language}", or measure no classification: --config.evals="(\'retrieval\',)"'
    )


def select(corpus: "Corpus", spec: "PairsSpec") -> "Corpus":
    """The items that a recipe reads, and the classes that it leaves out.

    Args:
      corpus: everything of a source.
      spec: labels to leave out, sides, least families of a class, limit.

    Returns:
      The corpus without what is left out; `left_out` says what that is.

    Raises:
      MmjaxError: `exclude_labels` that it does not have.
    """
    unknown = [x for x in spec.exclude_labels if x not in corpus.labels]
    if unknown:
        raise MmjaxError(
            f"{setting('pairs.exclude_labels')} names {unknown}; labels of {corpus.name} are "
            f"{sorted(corpus.labels)}"
        )
    items, left_out = list(corpus.items), list(corpus.left_out)

    def keep(good: Callable[["Item"], bool], why: str, wanted: bool = False) -> None:
        nonlocal items
        before = items
        items = [item for item in before if good(item)]
        left_out.extend(_lost(before, items, why, wanted))

    keep(lambda i: i.label not in spec.exclude_labels, "config.pairs.exclude_labels", wanted=True)
    keep(lambda i: not i.side or i.side in spec.sides, f"config.pairs.sides={spec.sides}")
    families = {(item.label, item.family if spec.keep_families else item.id) for item in items}
    count = Counter(label for label, _ in families)
    least = spec.min_families
    keep(
        lambda i: count[i.label] >= least, f"fewer families than config.pairs.min_families={least}"
    )
    if spec.pool == "development":
        of = [item.family for item in items]
        pool = development_pool(of, spec.development, [item.side for item in items])
        inside = {item.id for item, of_pool in zip(items, pool, strict=True) if of_pool}
        keep(lambda i: i.id in inside, "config.pairs.pool=development")
    if spec.limit and spec.limit < len(items):
        chosen = [items[i * len(items) // spec.limit] for i in range(spec.limit)]
        left_out.extend(_lost(items, chosen, f"config.pairs.limit={spec.limit}"))
        items = chosen
    kept = {item.label for item in items}
    labels = {k: v for k, v in corpus.labels.items() if k in kept or not spec.min_families}
    labels = {k: v for k, v in labels.items() if k not in spec.exclude_labels}
    return dataclasses.replace(corpus, items=tuple(items), labels=labels, left_out=tuple(left_out))


def _lost(
    before: Sequence["Item"], after: Sequence["Item"], why: str, wanted: bool = False
) -> list[LeftOut]:
    """The classes of which nothing is left."""
    count, kept = Counter(item.label for item in before), {item.label for item in after}
    lost = sorted(label for label in count if label not in kept)
    return [LeftOut(label, count[label], why, wanted) for label in lost]
