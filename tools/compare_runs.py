"""What tells two run folders of one recipe apart, by their files alone."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NOT_MEASURED = ("timings", "peak_memory_bytes", "command", "environment", "digest")
LACKS = "nothing"


class Failed(Exception):
    """What had to be done was not; says why."""


@dataclass(frozen=True)
class Difference:
    """What is not the same.

    Attributes:
      system: as results.json calls it, [another part] of it, or the folder of a stage.
      metric: its name there, the seed's place behind it.
      old: value of OLD.
      new: value of NEW.
    """

    system: str
    metric: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.system}, {self.metric}: {self.old} before, {self.new} now"


def compare(
    old: Path, new: Path, tolerance: float = 0.0, adapters: bool = True
) -> list[Difference]:
    """What tells two run folders of one recipe apart.

    Args:
      old: a finished run.
      new: another one.
      tolerance: by how much figures may differ, relative to them where they are above 1.
      adapters: whether what was trained is compared too; always bit for bit.

    Returns:
      Every figure and fingerprint that is not the same; empty where all are.

    Raises:
      Failed: a folder holds no figures, or no adapter.
    """
    parts = [_figures, _fingerprints] if adapters else [_figures]
    differences = []
    for part in parts:
        old_values, new_values = part(old), part(new)
        for name in dict.fromkeys([*old_values, *new_values]):  # in OLD's order
            before, now = old_values.get(name, LACKS), new_values.get(name, LACKS)
            if not _same(before, now, tolerance):
                system, metric = name
                differences.append(Difference(system, metric, before, now))
    return differences


def _figures(run: Path) -> dict[tuple[str, str], Any]:
    """(system or part, metric) -> every value that results.json measured."""
    content = json.loads((run / "results.json").read_bytes())
    parts = dict(content.pop("systems"))
    if not parts:
        raise Failed(f"{run} has no figures")
    parts |= {f"[{name}]": value for name, value in content.items() if name not in NOT_MEASURED}
    return {(part, name): v for part, values in parts.items() for name, v in _leaves(values)}


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, f"{name}.{key}" if name else key)
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from _leaves(inner, f"{name}[{i}]")
    else:
        yield name, value


def _fingerprints(run: Path) -> dict[tuple[str, str], str]:
    """(folder of a stage, "fingerprint") -> that of its adapter."""
    fingerprints = {}
    for path in sorted(run.glob("seed_*/*/adapter/adapter_card.json")):
        stage = path.parents[1].relative_to(run).as_posix()
        trained = json.loads(path.read_bytes())["trainable"]
        fingerprints[stage, "fingerprint"] = trained["fingerprint"]
    if not fingerprints:
        raise Failed(f"{run} has no adapter")
    return fingerprints


def _same(old: Any, new: Any, tolerance: float) -> bool:
    if isinstance(old, int | float) and isinstance(new, int | float):
        close = math.isclose(old, new, rel_tol=tolerance, abs_tol=tolerance)
        return close or (math.isnan(old) and math.isnan(new))
    return old == new
