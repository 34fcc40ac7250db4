"""Tables of a finished dual encoder: retrieval in both directions, classification, benchmarks."""

import statistics
from collections.abc import Sequence

from mmjax.evals.catalog import OTHERS
from mmjax.report.page import Table, numbers
from mmjax.report.results import Results
from mmjax.specs.recipe import Recipe
from mmjax.tasks.dual_encoder.domain_results import domain_headline, domain_tables

RECALLS = ("R@1", "R@5", "R@10", "mR")


def tables(results: Results) -> list[Table]:
    """Retrieval in both directions, and classification where it was measured."""
    if results.shares:
        domain = results.systems, results.labels, results.shares, results.counts
        return domain_tables(*domain) + _others(results)
    tested = sorted(set(results.counts["test"]))
    if "queries" in results.counts:
        held_out = _several(tested, results.counts["queries"])
    else:
        chance = statistics.fmean(k / n for n in tested for k in (1, 5, 10))
        held_out = f"{numbers(tested)} held-out items, all of them in the gallery. "
        held_out += f"Chance mR {chance:.3f}."
    tables = _retrieval(results, "", held_out)
    if any("zeroshot_acc" in metrics for metrics in results.systems.values()):
        tables.append(
            _table(
                results,
                "Zero-shot classification of the pictures by group names",
                ["zeroshot_acc", "zeroshot_class_acc"],
                ["accuracy", "mean over classes"],
                "No group name was seen in training.",
            )
        )
    return tables + _benchmarks(results) + _others(results)


def _others(results: Results) -> list[Table]:
    """What evaluators of other packages measured."""
    each = {m: None for values in results.systems.values() for m in values if m.startswith(OTHERS)}
    names = [metric.removeprefix(OTHERS).replace("/", ": ") for metric in each]
    title = "What evaluators of other packages measured"
    return [_table(results, title, list(each), names, "On the test items.")] if each else []


def _several(pictures: Sequence[int], queries: Sequence[int]) -> str:
    """What a reader must know of retrieval with several captions a picture."""
    return (
        f"{numbers(pictures)} pictures and {numbers(queries)} queries, all of them in the "
        "galleries; a hit at k where any right answer is among the first k."
    )


def _retrieval(results: Results, name: str, caption: str) -> list[Table]:
    """Both directions, of the recipe's own items or of a benchmark."""
    prefix, title = (f"{name}/", f"{name}: ") if name else ("", "")
    by_direction: list[Table] = []
    for direction, what in (("t2i", "text to image"), ("i2t", "image to text")):
        heading = f"{title}{what}"
        metrics = [f"{prefix}{direction}_{r}" for r in RECALLS]
        by_direction.append(
            _table(
                results,
                heading[0].upper() + heading[1:],
                [*metrics, f"{prefix}recovery_{direction}_mR"],
                [*RECALLS, "recovery"],
                caption if direction == "t2i" else "The same items, picture to text.",
            )
        )
    return by_direction


def _benchmarks(results: Results) -> list[Table]:
    """Two tables for each further retrieval set, one for all classification sets."""
    tables: list[Table] = []
    counts = results.counts
    sets = {key.partition("/")[0]: None for key in counts if "/" in key}
    classified = [name for name in sets if f"{name}/classes" in counts]
    for name in (name for name in sets if name not in classified):
        pictures, queries = (counts[f"{name}/{what}"] for what in ("pictures", "queries"))
        tables += _retrieval(results, name, _several(pictures, queries))
    if classified:
        sizes = [
            f"{name}: {numbers(counts[f'{name}/pictures'])} pictures of "
            f"{numbers(counts[f'{name}/classes'])} classes"
            for name in classified
        ]
        metrics = [f"{name}/{m}" for name in classified for m in ("acc", "class_acc")]
        columns = [f"{name}{m}" for name in classified for m in ("", ", mean over classes")]
        metrics = [metric.replace("/", "/zeroshot_") for metric in metrics]
        title = "Zero-shot classification by names and templates: accuracy"
        tables.append(_table(results, title, metrics, columns, f"{'; '.join(sizes)}."))
    return tables


def _table(
    results: Results, title: str, metrics: Sequence[str], columns: Sequence[str], caption: str
) -> Table:
    used = [
        (metric, column)
        for metric, column in zip(metrics, columns, strict=True)
        if any(metric in values for values in results.systems.values())
    ]
    rows = tuple(
        (results.labels[name], tuple(tuple(values.get(metric, ())) for metric, _ in used))
        for name, values in results.systems.items()
    )
    formats = tuple(".1%" if column == "recovery" else ".3f" for _, column in used)
    columns = tuple(column for _, column in used)
    shown = results.labels.get("adapted", "")
    return Table(title, columns, rows, caption, formats, highlight=(shown,))


def headline(results: Results) -> list[tuple[str, str]]:
    """The few figures to see first."""
    if results.shares:
        return domain_headline(results.systems)
    adapted = results.systems["adapted"]
    lines: list[tuple[str, str]] = []
    if "recovery_t2i_mR" in adapted:
        values = adapted["recovery_t2i_mR"]
        lines.append(("recovery ratio (text to image mR)", f"{statistics.fmean(values):.1%}"))
    lines.append(("R@1, text to image", f"{statistics.fmean(adapted['t2i_R@1']):.3f}"))
    lines.append(("R@10, text to image", f"{statistics.fmean(adapted['t2i_R@10']):.3f}"))
    return lines


def notes(results: Results) -> list[str]:
    """What the transformer is worth beside simpler adapters."""
    mean = {n: statistics.fmean(s["t2i_mR"]) for n, s in results.systems.items() if "t2i_mR" in s}
    others = {name: value for name, value in mean.items() if name in ("linear", "mlp")}
    if not others:
        return []
    shown = ", ".join(f"{value:.3f} for {results.labels[n]}" for n, value in others.items())
    return [
        f"Is the transformer worth it? Text-to-image mR {mean['adapted']:.3f} with it; without it, "
        f"on the same text: {shown}."
    ]


def summary(results: Results, recipe: Recipe) -> str:
    """What the recipe does, for a reader who sees the report alone."""
    source, target = recipe.languages
    if results.shares:
        return (
            "A frozen dual encoder learns a domain that it was trained without. What it "
            "gains there stands beside what it loses on the rest, both on items that no stage has "
            "trained on."
        )
    if "floor" not in results.systems:
        joined = recipe.main.task == "contrastive"
        how = " joined into one space by small trained heads" if joined else ", as they are"
        return f"Two frozen towers{how}."
    if "ceiling" not in results.systems:
        return (
            f"A frozen {source} text encoder and a small adapter take the place of the {target} "
            f"text encoder of a frozen dual encoder. The pictures have no {target} captions, so "
            "there is no ceiling to compare with."
        )
    return (
        f"A frozen {source} text encoder and a small adapter take the place of the {target} text "
        "encoder of a frozen dual encoder. The recovery ratio is (adapted - floor) / "
        f"(ceiling - floor): the share of the way from {source} text in the {target} encoder to "
        f"{target} text that the adapter covers."
    )
