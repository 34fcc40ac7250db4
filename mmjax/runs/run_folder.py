"""The recipe that a run folder belongs to: kept in config.json, compared, and read again.

The command line reads this file as a recipe's own: `--config mmjax/runs/run_folder.py:RUNS/A` is
the recipe of that folder, so that --config.evals and its like can be given beside it. Nothing here
imports jax.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from mmjax.checks.foreign import reading
from mmjax.errors import MmjaxError, shown
from mmjax.files import digest_of

CONFIG = "config.json"
# What may change between two starts of one run without making it another run.
FREE = ("mesh", "checkpoint", "writer")
# What is asked of a finished run: another evaluation, but the same run.
ASKED = ("evals", "benchmarks")


def make(workdir: Path) -> None:
    """Makes a run folder where there is none.

    Raises:
      MmjaxError: it cannot be made.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MmjaxError(f"cannot make the run folder {workdir}: {error.strerror}") from error


def kept(config: Mapping[str, Any]) -> dict[str, Any]:
    """What config.json holds of a recipe: all but what may change, in JSON's own types."""
    return json.loads(json.dumps({k: v for k, v in config.items() if k not in FREE}))


def read_recipe(workdir: Path) -> dict[str, Any]:
    """The recipe of a run folder, nested as its file has it.

    Args:
      workdir: the run folder.

    Returns:
      Plain values; what may change between two starts is not among them.

    Raises:
      MmjaxError: the folder holds no run, or its config.json is damaged.
    """
    path = workdir / CONFIG
    if not path.is_file():
        raise MmjaxError(
            f"{workdir} holds no run ({CONFIG} is missing); give the --workdir of one, or train it "
            "with --config"
        )
    with reading(path, "the recipe of a run", MmjaxError):
        config = json.loads(path.read_bytes())
    if not isinstance(config, dict):
        raise MmjaxError(
            f"{path} is damaged: it holds {shown(config)}, not a JSON object; put it back, or use "
            "another --workdir"
        )
    nested: dict[str, Any] = {}
    for name, value in config.items():  # earlier versions wrote dotted names
        *parents, last = name.split(".")
        place = nested
        for part in parents:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise MmjaxError(f"{path} is damaged: {name!r} is below a value")
        place[last] = value
    return nested


def differences(
    workdir: Path, config: Mapping[str, Any], free: tuple[str, ...] = ()
) -> tuple[str, ...]:
    """What tells a recipe from that of a run folder.

    Args:
      workdir: holds a run.
      config: a recipe as plain values.
      free: further top-level keys that may differ.

    Returns:
      "NAME: VALUE there, VALUE here", sorted by name; empty where they are the same.

    Raises:
      MmjaxError: as `read_recipe`.
    """
    theirs, mine = flat(read_recipe(workdir)), flat(kept(config))
    names = sorted(k for k in theirs.keys() | mine.keys() if theirs.get(k) != mine.get(k))
    return tuple(
        f"{name}: {theirs.get(name)!r} there, {mine.get(name)!r} here"
        for name in names
        if name.partition(".")[0] not in free
    )


def check_same(workdir: Path, config: Mapping[str, Any], free: tuple[str, ...] = ()) -> None:
    """Refuses a run folder of another recipe.

    Args:
      workdir: holds a run.
      config: the recipe that it should be of.
      free: as for `differences`.

    Raises:
      MmjaxError: it is another's; names what differs.
    """
    changes = differences(workdir, config, free)
    if not changes:
        return
    summary = f"{', '.join(changes[:3])}{', ...' if changes[3:] else ''}"
    advice = "use another --workdir or remove it"
    if free:
        advice = "leave --config out, for the folder keeps its own recipe, or use that of the run"
    elif not differences(workdir, config, ASKED):
        advice = "--mode evaluate asks other questions of a finished run"
    raise MmjaxError(f"{workdir} holds a run of another recipe ({summary}); {advice}")


def evaluation_folder(workdir: Path, config: Mapping[str, Any]) -> Path:
    """Where an evaluation's results go: each other one than the recipe's own has its own place.

    Args:
      workdir: holds a run of this recipe.
      config: the recipe, perhaps with other evals or benchmarks.

    Returns:
      The run folder itself for the evaluation that the run was trained with.
    """
    if not differences(workdir, config):
        return workdir
    settings = {name: kept(config).get(name) for name in ASKED}
    return workdir / "evaluations" / digest_of(settings)[:12]


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values as dotted names."""
    dotted: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            dotted |= flat(value, f"{prefix}{name}.")
        else:
            dotted[prefix + name] = value
    return dotted


def get_config(workdir: str) -> ConfigDict:
    """The recipe of a run folder, as a recipe's file gives it."""
    usual = {
        "mesh": {"data": -1, "model": 1},
        "checkpoint": {"allow_other_encoder": False},
        "writer": {"tensorboard": False},
    }
    return ConfigDict({**_tuples(read_recipe(Path(workdir))), **usual})


def _tuples(value: Any) -> Any:
    """Lists as tuples, which the command line can replace."""
    if isinstance(value, dict):
        return {name: _tuples(part) for name, part in value.items()}
    return tuple(_tuples(part) for part in value) if isinstance(value, list) else value
