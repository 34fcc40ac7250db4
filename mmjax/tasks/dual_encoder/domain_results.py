"""Tables of a `domain` recipe: what is gained on the domain beside what is lost on the rest."""

import statistics
from collections.abc import Mapping, Sequence

from mmjax.report.page import Table, numbers
from mmjax.report.results import minus
from mmjax.specs.spec import Stage
from mmjax.tasks.adapting import told

ADAPTER = "residual adapter"
PLAIN = f"{ADAPTER}, no weighting"
PARTS = {"domain": "", "general": "general_"}
DIRECTIONS = {"Text to image": "t2i", "Image to text": "i2t"}
Cell = tuple[float, ...]


def domain_tables(
    systems: Mapping[str, Mapping[str, Sequence[float]]],
    labels: Mapping[str, str],
    shares: Mapping[str, float],
    counts: Mapping[str, Sequence[int]],
) -> list[Table]:
    """The tables, the one that says most first.

    Args:
      systems: system -> metric -> one value a seed; `base` and `adapted` are among them.
      labels: system -> what it is, the same for all shares.
      shares: system -> share of the domain's training pairs; none for the base.
      counts: {"train", "test", "general"} -> items, one number a seed.

    Returns:
      mR by share of the domain's pairs; differences to the adapter without weighting; recalls in
      both directions, and classification where it was measured, for all pairs.
    """
    fractions = sorted(set(shares.values()))
    highlight = (labels["adapted"],)
    by_label: dict[str, dict[float, Mapping[str, Sequence[float]]]] = {}
    for system, values in systems.items():
        for share in [shares[system]] if system in shares else fractions:
            by_label.setdefault(labels[system], {})[share] = values

    def cell(label: str, share: float, metric: str) -> Cell:
        return tuple(by_label[label].get(share, {}).get(metric, ()))

    cells = [(share, f"{prefix}mR") for prefix in PARTS.values() for share in fractions]
    columns = tuple(f"{part}, {share:.0%}" for part in PARTS for share in fractions)
    held_out = (
        f"Held out: {numbers(counts['test'])} items of the domain and "
        f"{numbers(counts['general'])} of the rest, each part in a gallery of its own. mR is the "
        "mean of R@1, R@5 and R@10 over both directions. Columns: share of the "
        f"{numbers(counts['train'])} training pairs of the domain."
    )
    order = sorted(
        by_label,
        key=lambda x: (x != labels["base"], x != PLAIN, not x.startswith(ADAPTER), x.lower()),
    )
    rows = tuple((label, tuple(cell(label, *c) for c in cells)) for label in order)
    tables = [
        Table(
            "mR after few pairs of a domain: gained and forgotten",
            columns,
            rows,
            held_out,
            (),
            highlight,
        )
    ]
    if PLAIN in by_label:
        rows = tuple(
            (label, tuple(minus(cell(label, *c), cell(PLAIN, *c)) for c in cells))
            for label in order
            if label not in (PLAIN, labels["base"])
        )
        caption = "Difference seed by seed; positive is better than the adapter without weighting."
        tables.append(Table(f"Against: {PLAIN}", columns, rows, caption, (), highlight))
    most = fractions[-1]
    whole = [label for label in order if most in by_label[label]]
    for title, direction in DIRECTIONS.items():
        names = [(part, recall) for part in PARTS for recall in ("R@1", "R@5", "R@10")]
        rows = tuple(
            (label, tuple(cell(label, most, f"{PARTS[p]}{direction}_{r}") for p, r in names))
            for label in whole
        )
        columns = tuple(f"{part} {recall}" for part, recall in names)
        tables.append(Table(f"{title}, {most:.0%} of the pairs", columns, rows, "", (), highlight))
    if "zeroshot_acc" in systems["adapted"]:
        rows = tuple(
            (label, tuple(cell(label, most, f"{prefix}zeroshot_acc") for prefix in PARTS.values()))
            for label in whole
        )
        title = "Zero-shot classification of the pictures by the names of their classes"
        tables.append(Table(title, tuple(PARTS), rows, "Accuracy.", (), highlight))
    return tables


def describe_domain(stage: Stage) -> str:
    """What a `domain` stage trains, in a few words."""
    w, c = stage.weighting, stage.continual
    own, inside = {"adapter": ADAPTER, "heads": "heads, fine-tuned"}, told(stage)
    tune = stage.residual.tune
    parts = [f"{own[tune]}{inside}" if tune in own else inside.removeprefix(" with ")]
    parts += {"none": [], "focal": [f"focal weights γ={w.gamma:g}"]}.get(
        w.pairs, [f"loss-softmax weights T={w.temperature:g}"]
    )
    parts += [f"hard negatives β={w.beta:g}"] if w.beta or w.tau_plus else []
    parts += {"ewc": ["EWC"], "distill": ["distilled to the base"]}.get(c.kind, [])
    return PLAIN if parts == [ADAPTER] else ", ".join(parts)


def domain_headline(systems: Mapping[str, Mapping[str, Sequence[float]]]) -> list[tuple[str, str]]:
    """MR of the domain and of the rest, before and after."""
    lines: list[tuple[str, str]] = []
    for name, metric in (("domain", "mR"), ("general", "general_mR")):
        before, after = (
            statistics.fmean(systems[system][metric]) for system in ("base", "adapted")
        )
        lines.append((f"{name} mR, before and after", f"{before:.3f} → {after:.3f}"))
    return lines
