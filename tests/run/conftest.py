"""A tiny world for whole runs: encoders of a few kilobytes, drawn pictures, two languages."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

ROOT = Path(__file__).parents[2]
COLOURS = ("red", "orange", "gold", "green", "teal", "blue", "purple", "brown", "grey", "black")
SHAPES = ("ellipse", "rectangle", "bar", "cross")
STAGES = ("base", "linear", "language")


def draw(path: Path, colour: int, shape: int) -> None:
    """One shape on white."""
    image = Image.new("RGB", (24, 24), "white")
    pen = ImageDraw.Draw(image)
    if SHAPES[shape] == "ellipse":
        pen.ellipse((4, 4, 20, 20), fill=COLOURS[colour])
    elif SHAPES[shape] == "rectangle":
        pen.rectangle((6, 3, 18, 21), fill=COLOURS[colour])
    elif SHAPES[shape] == "bar":
        pen.rectangle((1, 9, 23, 14), fill=COLOURS[colour])
    else:
        pen.line((2, 2, 22, 22), fill=COLOURS[colour], width=5)
        pen.line((2, 22, 22, 2), fill=COLOURS[colour], width=5)
    image.save(path)


def rows() -> list[dict[str, Any]]:
    """40 pictures in 2 classes; English says w4..w17, Chinese the same with words 20 higher."""
    found = []
    for i in range(40):
        colour, shape = divmod(i, len(SHAPES))
        found.append(
            {
                "id": f"item{i:02d}",
                "image": f"{i:02d}.png",
                "label": {"en": f"w{18 + shape % 2}", "zh": f"w{38 + shape % 2}"},
                "en": f"w{4 + colour} w{14 + shape}",
                "zh": f"w{24 + colour} w{34 + shape}",
                "keywords_en": [f"w{4 + colour}", f"w{14 + shape}"],
                "keywords_zh": [f"w{24 + colour}", f"w{34 + shape}"],
            }
        )
    return found


@dataclasses.dataclass(frozen=True)
class Toy:
    """Everything that a tiny run reads.

    Attributes:
      folder: holds encoders, data, the recipe and the cache.
      config: of the recipe `language`.
    """

    folder: Path
    config: Mapping[str, Any]

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    @property
    def recipe(self) -> Path:
        return self.folder / "recipe.py"

    def environment(self, **more: str) -> dict[str, str]:
        """Of a child: the toy's own cache, no network, jax free to take the CPU."""
        return os.environ | {
            "PYTHONPATH": str(ROOT),
            "MMJAX_CACHE": str(self.cache),
            "MMJAX_OFFLINE": "1",
            "JAX_PLATFORMS": "cpu",
            **more,
        }

    def command(self, workdir: Path, *arguments: str) -> list[str]:
        """The command line of a run."""
        start = [sys.executable, "-m", "mmjax.main", "--config", str(self.recipe)]
        return [*start, "--workdir", str(workdir), *arguments]

    def run(self, workdir: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Runs the command to its end."""
        return subprocess.run(
            self.command(workdir, *arguments),
            cwd=self.folder,
            env=self.environment(**env),
            capture_output=True,
            text=True,
            timeout=600,
        )

    def kill_when(
        self, moment: Callable[[], bool], workdir: Path, *arguments: str, **env: str
    ) -> bool:
        """Starts the command and kills it -9 at a moment; False where it ended before."""
        child = subprocess.Popen(
            self.command(workdir, *arguments),
            cwd=self.folder,
            env=self.environment(**env),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        limit = time.monotonic() + 200
        while child.poll() is None and time.monotonic() < limit:
            if moment():
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
                return True
            time.sleep(0.002)
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            pytest.fail("the moment never came")
        return False

    def rows(self) -> list[dict[str, Any]]:
        """The rows of pairs.jsonl."""
        return rows()

    def write_jsonl(self, path: Path, records: list[dict[str, Any]]) -> Path:
        """Writes rows."""
        write_jsonl(path, records)
        return path

    def change(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """The config with some values replaced, dotted names."""
        return changed(self.config, changes)

    def card(self, workdir: Path, stage: str) -> dict[str, Any]:
        """A stage's card."""
        path = workdir / "seed_0" / stage / "adapter" / "adapter_card.json"
        return json.loads(path.read_text())

    def fingerprints(self, workdir: Path) -> dict[str, str]:
        """Stage -> fingerprint of what was trained."""
        return {s: self.card(workdir, s)["trainable"]["fingerprint"] for s in STAGES}

    def losses(self, workdir: Path, stage: str) -> list[tuple[int, float]]:
        """(step, loss) of every line of metrics, duplicates and all."""
        lines = (workdir / "seed_0" / stage / "metrics.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in lines]
        return [(r["step"], r["loss"]) for r in records if "loss" in r]


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory, write_folder: Callable[..., Path]) -> Toy:
    """Encoders, 40 drawn pictures, parallel text and a recipe of three stages."""
    folder = tmp_path_factory.mktemp("toy")
    write_folder(folder / "text", "bert_tiny")
    write_folder(folder / "foreign", "bert_tiny")
    write_folder(folder / "image", "dinov2_tiny")
    for i in range(40):
        draw(folder / f"{i:02d}.png", *divmod(i, len(SHAPES)))
    write_jsonl(folder / "pairs.jsonl", rows())
    parallel = [
        {"source": f"w{24 + i % 10} w{34 + i % 4}", "target": f"w{4 + i % 10} w{14 + i % 4}"}
        for i in range(20)
    ]
    write_jsonl(folder / "parallel.jsonl", parallel)
    config = make_config(folder)
    # Nested dicts come back as ConfigDicts, so that every field can be overridden by a flag.
    (folder / "recipe.py").write_text(
        f"from ml_collections import ConfigDict\n\n\ndef get_config():\n"
        f"    return ConfigDict({config!r})\n"
    )
    return Toy(folder, config)


def write_jsonl(path: Path, records: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records))


def make_config(folder: Path) -> dict[str, Any]:
    encoders = {
        "image": {"source": str(folder / "image"), "output": "cls_mean"},
        "text": {"source": str(folder / "text"), "output": "pooled"},
    }
    pairs = {"source": str(folder / "pairs.jsonl"), "test_fraction": 0.3, "val_fraction": 0.15}
    head = {"hidden": (16,), "out_dim": 8, "dropout": 0.1}
    train = {
        "steps": 12,
        "batch_size": 8,
        "eval_every": 6,
        "save_every": 3,
        "log_every": 1,
        "select": "mR",
        "cache_features": True,
    }
    optim = {"name": "adamw", "lr": 3e-3, "weight_decay": 0.01, "warmup_steps": 2, "clip_norm": 0.0}
    shared = {"pairs": pairs, "optim": optim, "train": train}
    return {
        **shared,
        "name": "toy",
        "task": "language",
        "seeds": (0,),
        "languages": ("zh", "en"),
        "evals": ("retrieval", "zeroshot"),
        "encoders": {
            **encoders,
            "foreign": {"source": str(folder / "foreign"), "output": "tokens"},
        },
        "base": {
            **shared,
            "task": "contrastive",
            "encoders": encoders,
            "image_head": head,
            "text_head": head,
        },
        "parallel": {"sources": ("captions", str(folder / "parallel.jsonl")), "limit": 0},
        "adapter": {"kind": "transformer", "width": 16, "num_layers": 1, "num_heads": 2},
        "loss": {"kind": "distill_mse"},
        "variants": {"linear": {"adapter": {"kind": "linear"}}},
        "mesh": {"data": -1, "model": 1},
        "checkpoint": {"allow_other_encoder": False},
        "writer": {"tensorboard": False},
    }


def changed(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A nested dict with dotted names replaced."""
    result = {k: changed(v, {}) if isinstance(v, Mapping) else v for k, v in values.items()}
    for name, value in changes.items():
        *path, last = name.split(".")
        place = result
        for part in path:
            place = place[part]
        place[last] = value
    return result


@pytest.fixture(scope="session")
def start() -> Callable[..., Path]:
    """Returns `start(toy, workdir, **changes)`: a run in this process, names with dots as keys."""
    from mmjax import study
    from mmjax.specs.recipe import resolve_recipe

    def run(
        toy: Toy, workdir: Path, changes: Mapping[str, Any] | None = None, command: str = "test"
    ) -> Path:
        config = changed(toy.config, changes or {})
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MMJAX_CACHE", str(toy.cache))
            study.run(resolve_recipe(config), config, workdir, command)
        return workdir

    return run


@pytest.fixture(scope="session")
def finished(toy: Toy, start: Callable[..., Path]) -> Path:
    """A run folder of the recipe on 8 devices; nobody writes into it."""
    return start(toy, toy.folder / "finished")


@pytest.fixture(scope="session")
def straight(toy: Toy) -> Path:
    """A run folder of the command on one device that nobody disturbed."""
    workdir = toy.folder / "straight"
    done = toy.run(workdir)
    assert done.returncode == 0, done.stderr
    return workdir


@pytest.fixture
def cached(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes this process use the toy's cache."""
    monkeypatch.setenv("MMJAX_CACHE", str(toy.cache))
