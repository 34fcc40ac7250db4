"""Tables and plot of a `prompts` recipe: accuracy by shots, without parts, on what is new."""

import statistics
from collections.abc import Iterator, Mapping, Sequence

from mmjax.report.page import Table, numbers
from mmjax.report.plots import COLOURS, Curve
from mmjax.specs.spec import Stage
from mmjax.tasks.adapting import told

Systems = Mapping[str, Mapping[str, Sequence[float]]]
Cell = tuple[float, ...]
ZERO_SHOT = "zero-shot"
PROBE = "linear probe"
NAMES = {
    "structured": "structured prompts, exact",
    "factorised": "structured prompts, factorised",
    "coop": "CoOp",
    "cocoop": "CoCoOp",
    "kgcoop": "KgCoOp",
    "maple": "MaPLe",
    "linear_probe": PROBE,
    "linear_probe_plus": "LP++",
    "tip_adapter": "Tip-Adapter-F",
    "clip_adapter": "CLIP-Adapter",
    "task_residual": "TaskRes",
    "clap": "CLAP",
}


def describe_method(stage: Stage) -> str:
    """What a `prompts` stage trains, in a few words."""
    return f"{_method(stage)}{told(stage)}"


def _method(stage: Stage) -> str:
    spec = stage.prompts
    if spec.method == "tip_adapter" and not stage.train.steps:
        return "Tip-Adapter, training-free"
    parts = {"G": spec.general > 0, "D": spec.domain, "I": spec.instance > 0}
    off = [name for name, on in parts.items() if not on]
    if spec.method in ("structured", "factorised") and off:
        return f"{NAMES[spec.method]}, without {' and '.join(off)}"
    return NAMES[spec.method]


def protocol_of(stage: Stage) -> dict[str, int | str]:
    """What tells the systems of one method apart."""
    return {"shots": stage.fewshot.shots, "half": stage.fewshot.half}


class ShotsGrid:
    """Figures by method and number of shots."""

    def __init__(
        self,
        systems: Systems,
        labels: Mapping[str, str],
        protocol: Mapping[str, Mapping[str, int | str]],
    ) -> None:
        """Sorts systems by what they are.

        Args:
          systems: system -> metric -> one value a seed.
          labels: system -> its method, the same for all shots.
          protocol: system -> {"shots", "half"}; none for the zero-shot classifier.
        """
        self.main = labels["adapted"]

        def shots_of(half: str) -> list[int]:
            return sorted({int(p["shots"]) for p in protocol.values() if p["half"] == half})

        def row(name: str) -> str:  # among halves, whose table has no column for shots
            several = len(self.half_shots) > 1
            return f"{labels[name]}, {protocol[name]['shots']} shots" if several else labels[name]

        self.shots, self.half_shots = shots_of("all"), shots_of("base")
        self.main_of_halves = row("adapted")
        self.rows: dict[str, dict[int, Mapping[str, Sequence[float]]]] = {}
        self.halves: dict[str, Mapping[str, Sequence[float]]] = {}
        for name, values in systems.items():
            if name == "base":
                self.rows[ZERO_SHOT] = dict.fromkeys(self.shots, values)
            elif name == "base_half":
                self.halves[ZERO_SHOT] = values
            elif protocol[name]["half"] == "base":
                self.halves[row(name)] = values
            else:
                self.rows.setdefault(labels[name], {})[int(protocol[name]["shots"])] = values
        order = list(NAMES.values())
        place = {label: i for i, label in enumerate(order)}

        def rank(label: str) -> tuple[int, str]:
            if label == ZERO_SHOT:
                return -1, label
            return len(order) - place.get(label.split(", without")[0].strip(), 4), label

        self.rows = {label: self.rows[label] for label in sorted(self.rows, key=rank)}

    def cell(self, label: str, shots: int, metric: str) -> Cell:
        """One value a seed; nothing where it was not measured."""
        return tuple(self.rows[label].get(shots, {}).get(metric, ()))

    def mean(self, label: str, shots: int) -> float | None:
        """Mean accuracy over seeds."""
        cell = self.cell(label, shots, "accuracy")
        return statistics.fmean(cell) if cell else None

    def reach(self, label: str, wanted: float) -> int | None:
        """The fewest shots with which a method's mean accuracy is as high."""
        means = {k: self.mean(label, k) for k in self.shots}
        return next((k for k, mean in means.items() if mean is not None and mean >= wanted), None)


def fewshot_tables(grid: ShotsGrid, counts: Mapping[str, Sequence[int]]) -> list[Table]:
    """The tables, accuracy by shots first.

    Args:
      grid: all figures.
      counts: {"classes", "asked"} -> numbers, one a seed.

    Returns:
      Accuracy by shots; the same without parts; other styles; base and new classes. What no
      system was trained for is left out.
    """
    highlight = (grid.main,)
    classes, asked = (numbers(counts[k]) for k in ("classes", "asked"))
    columns = tuple(f"{k} {'shot' if k == 1 else 'shots'}" for k in grid.shots)
    protocol = (
        f"Accuracy on {asked} held-out pictures of {classes} classes (chance "
        f"{1 / statistics.fmean(counts['classes']):.3f}). One set of hyper-parameters for all "
        "shots, the last step, no held-out picture chooses anything."
    )
    whole = [label for label in grid.rows if ", without" not in label]
    parts = [label for label in grid.rows if ", without" in label]

    def table(title: str, labels: Sequence[str], metric: str, caption: str) -> Table:
        rows = tuple((x, tuple(grid.cell(x, k, metric) for k in grid.shots)) for x in labels)
        return Table(title, columns, rows, caption, (), highlight)

    tables: list[Table] = []
    if grid.shots:
        tables.append(table("Accuracy by shots a class", whole, "accuracy", protocol))
    for family in (NAMES["structured"], NAMES["factorised"]):
        own = [label for label in parts if label.startswith(family)]
        if own:
            rows = [label for label in (family, *own) if label in grid.rows]
            caption = "G: General, D: Domain, I: Instance. " + PARTS[family == NAMES["structured"]]
            tables.append(
                table(f"{family.capitalize()}: parts left out", rows, "accuracy", caption)
            )
    metrics = {m for label in whole for m in grid.rows[label].get(max(grid.shots, default=0), {})}
    for style in sorted(m.removesuffix("_accuracy") for m in metrics if m.endswith("_accuracy")):
        if style not in ("class", "base", "new", "harmonic") and "_class" not in style:
            caption = f"Trained on the first style, asked about the same items drawn as {style}."
            metric = f"{style}_accuracy"
            tables.append(table(f"Other picture style: {style}", whole, metric, caption))
    if grid.halves:
        names = ("base", "new", "harmonic")
        rows = tuple(
            (label, tuple(tuple(values.get(f"{n}_accuracy", ())) for n in names))
            for label, values in grid.halves.items()
        )
        first = f"Accuracy on {asked} held-out pictures of the first {classes} classes. "
        caption = (
            f"{'' if grid.shots else first}"
            "Trained on the first half of the classes; a dash: the method says nothing of others. "
            "The harmonic mean is of both accuracies."
        )
        shots = numbers(grid.half_shots)
        title = f"Base to new classes, {shots} shots"
        tables.append(Table(title, names, rows, caption, (), (grid.main_of_halves,)))
    return tables


# What a part left out means, in the factorised form and in the exact one.
PARTS = (
    "Without G the prompts have equal shares, without D no class has a residual, without I the "
    "picture has no say.",
    "Without D a learnt token of each class's own stands in the name's place.",
)


def fewshot_headline(grid: ShotsGrid) -> list[tuple[str, str]]:
    """How many shots reach the linear probe with all of them; else, accuracy on both halves."""
    lines: list[tuple[str, str]] = []
    if not grid.shots:
        for part in ("base", "new"):
            before, after = (
                grid.halves.get(label, {}).get(f"{part}_accuracy", ())
                for label in (ZERO_SHOT, grid.main_of_halves)
            )
            if before and after:
                shown = f"{statistics.fmean(before):.3f} → {statistics.fmean(after):.3f}"
                lines.append((f"accuracy on {part} classes, before and after", shown))
        return lines
    most = grid.shots[-1]
    zero, main = grid.mean(ZERO_SHOT, most), grid.mean(grid.main, most)
    if zero is not None and main is not None:
        lines.append((f"accuracy, zero-shot → {most} shots", f"{zero:.3f} → {main:.3f}"))
    wanted = grid.mean(PROBE, most) if PROBE in grid.rows else None
    if wanted is not None:
        for label in (NAMES["factorised"], NAMES["structured"]):
            if label in grid.rows:
                found = grid.reach(label, wanted)
                reached = f"{found} of {most}" if found else f"not with {most}"
                lines.append((f"shots to the linear probe's {wanted:.3f}: {label}", reached))
    return lines


def fewshot_curves(grid: ShotsGrid) -> Iterator[Curve]:
    """Mean accuracy over shots; as many methods as there are colours, the main one first."""
    whole = [label for label in grid.rows if ", without" not in label and label != ZERO_SHOT]
    order = sorted(whole, key=lambda label: (label != grid.main, "training-free" in label))
    for label in order[: len(COLOURS)]:
        points = [(k, grid.mean(label, k)) for k in grid.shots]
        known = [(k, mean) for k, mean in points if mean is not None]
        if known:
            shots, means = zip(*known, strict=True)
            yield Curve(label, "accuracy by shots", shots, means, "shots a class")


def fewshot_notes(grid: ShotsGrid) -> list[str]:
    """Where the prompts win and where they do not, in plain words."""
    notes: list[str] = []
    for label in (x for x in (NAMES["factorised"], NAMES["structured"]) if x in grid.rows):
        for other in (x for x in grid.rows if x != label and ", without" not in x):
            means = [(k, grid.mean(label, k), grid.mean(other, k)) for k in grid.shots]
            known = [(k, a, b) for k, a, b in means if a is not None and b is not None]
            won = [str(k) for k, a, b in known if a > b]
            if known:
                shown = f"at {', '.join(won)} of" if won else "at none of"
                numbers = ", ".join(str(k) for k, _, _ in known)
                notes.append(f"{label} is above {other} {shown} {numbers} shots (means).")
    return notes
