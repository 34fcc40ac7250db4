"""Tiny models and calls that natural mistakes are made with."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

PICTURE = np.zeros((24, 24, 3), np.uint8)
_ROLES = ("image", "text")
ROWS = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
LABELS = np.arange(8) % 2


@dataclasses.dataclass
class World:
    """Tiny models from the folders of a test."""

    folder: Path

    def __post_init__(self) -> None:
        """Loads what the cases call."""
        import jax

        import mmjax
        from mmjax.adapters.lora import Lora
        from mmjax.adapters.multimodal import Multimodal
        from mmjax.adapters.rep_adapter import RepAdapter
        from mmjax.tasks.instruct.answering import Answering
        from mmjax.tasks.instruct.task import InstructTask

        self.load = mmjax.load_encoder
        self.language: Any = mmjax.load_encoder(self.folder / "llama")
        self.texts = mmjax.load_encoder(self.folder / "bert")
        self.images = mmjax.load_encoder(self.folder / "clip", tower="image")
        self.lora = Lora(rank=2)
        self.adapters = self.lora.init(jax.random.key(0), self.language.params["layers"])
        self.adapted = self._dual_encoder()
        routed = RepAdapter(rank=2)
        parts = Multimodal(routed, dataclasses.replace(routed), taps=2, hidden=4)
        trainable = parts.init(jax.random.key(0), self.language.params, self.images.params)
        task = InstructTask.of(parts, self.language.module, self.images.module)
        self.answering = Answering(task, self.language, self.images, trainable, {})

    def _dual_encoder(self) -> Any:
        """CLIP as it is, saved and loaded as an adapter."""
        import mmjax
        from mmjax import sharding
        from mmjax.data.library import Library
        from mmjax.runs import adapter_files
        from mmjax.specs.build import build
        from mmjax.specs.spec import Stage

        encoders = {role: {"source": str(self.folder / "clip"), "tower": role} for role in _ROLES}
        stage = {"name": "pretrained", "task": "pretrained", "encoders": encoders}
        library = Library(sharding.make_mesh(), ("zh", "en"))
        self.card: dict[str, Any] = {
            "schema": 1,
            "recipe": "toy",
            "languages": ["zh", "en"],
            "seed": 0,
            "step": 0,
            "stage": stage,
            "encoders": {
                role: library.identity(spec) for role, spec in build(Stage, stage).encoders.items()
            },
            "validation": {},
            "base": None,
        }
        trainable = {"logit_scale": np.asarray(3.0, np.float32)}
        adapter_files.save_adapter(self.folder / "adapter", trainable, self.card)
        return mmjax.load_adapter(str(self.folder / "adapter"))

    def resized(self) -> Any:
        """Two heads of 8 outputs, whose card says 4."""
        import jax

        import mmjax
        from mmjax.encoders.output import Tower
        from mmjax.runs import adapter_files
        from mmjax.specs.build import build
        from mmjax.specs.spec import Stage
        from mmjax.tasks.dual_encoder.stacking import make_task

        heads = {f"{role}_head": {"out_dim": 8} for role in _ROLES}
        stage = self.card["stage"] | heads | {"task": "contrastive", "name": "contrastive"}
        width = self.images.embed_dim
        towers = {role: Tower(role, width) for role in _ROLES}
        batch: Any = {role: {"features": np.ones((2, width), np.float32)} for role in _ROLES}
        made = make_task(build(Stage, stage), towers).init(jax.random.key(0), {}, batch)
        for head in heads.values():
            head["out_dim"] = 4
        adapter_files.save_adapter(self.folder / "resized", made, self.card | {"stage": stage})
        return mmjax.load_adapter(self.folder / "resized")

    def generate(self, *args: Any, **options: Any) -> Any:
        """Of `mmjax.generation`, with the plain model."""
        from mmjax.generation import generate

        return generate(self.language, *args, **options)

    def score(self, *args: Any, **options: Any) -> Any:
        """Of `mmjax.generation`, with the plain model."""
        from mmjax.generation import score

        return score(self.language, *args, **options)

    def sampled(self, **numbers: Any) -> Any:
        """Draws with some numbers."""
        import jax

        from mmjax.generation import Sampling

        return self.generate(["w4"], 2, Sampling(**numbers), jax.random.key(0))

    def with_lora(self) -> Any:
        """The model with an adapter as its hook, asked without the adapter's parameters."""
        from mmjax.generation import generate

        return generate(self.language.with_hook(self.lora), ["w4"], 2)

    def fit(self, x: Any, y: Any, **settings: Any) -> Any:
        """Of the scikit-learn transformer."""
        from mmjax.sklearn import ContrastiveProjection

        return ContrastiveProjection(**settings).fit(x, y)


def merged(world: World, *, model: Any = None, adapters: Any = None) -> Any:
    from mmjax.adapters.merging import merge

    return merge(world.language if model is None else model, adapters)


def interop(name: str, *args: Any) -> Any:
    from mmjax.interop import coop, peft

    found = {"import": peft.import_lora, "export": peft.export_lora, "coop": coop.load_context}
    return found[name](*args)


def load_adapter(*args: Any, **options: Any) -> Any:
    import mmjax

    return mmjax.load_adapter(*args, **options)
