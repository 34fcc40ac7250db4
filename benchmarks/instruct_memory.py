"""What would each device hold while LaVIN's adapters are trained at 7B and 13B?

Nothing is allocated. Shares of weights and state follow from the sharding rules, on any mesh; what
a step needs beside them is the CPU compiler's plan for the devices at hand, in float32, as it makes
float32 copies of all that is bfloat16: an upper bound of bfloat16's.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from benchmarks.harness import Grid, Options, Report
from mmjax import optim, sharding, trees
from mmjax.adapters.multimodal import Multimodal
from mmjax.adapters.rep_adapter import RepAdapter
from mmjax.encoders import catalog
from mmjax.encoders.attention import choose, with_kernel
from mmjax.encoders.llama import Llama
from mmjax.encoders.vision import VisionTransformer
from mmjax.plan.encoders import placed
from mmjax.progress import track
from mmjax.specs.spec import OptimSpec
from mmjax.state import TrainState, create
from mmjax.step import TrainStep, make_train_step
from mmjax.tasks.instruct.task import InstructTask
from mmjax.trees import PyTree

_LLAMA: Mapping[str, Any] = {"model_type": "llama", "vocab_size": 32000, "rms_norm_eps": 1e-6}
LANGUAGE: Mapping[str, Mapping[str, Any]] = {
    "7B": {
        **_LLAMA,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
    },
    "13B": {
        **_LLAMA,
        "hidden_size": 5120,
        "intermediate_size": 13824,
        "num_hidden_layers": 40,
        "num_attention_heads": 40,
    },
}
CLIP_L: Mapping[str, Any] = {
    "model_type": "clip",
    "projection_dim": 768,
    "vision_config": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": 224,
        "patch_size": 14,
    },
}
TEMPERATURE = {"7B": 10.0, "13B": 5.0}
MESHES = ((1, 1), (8, 1), (1, 8), (32, 8))  # (data, model)
ROWS, COLUMNS, ANSWERS = 4, 512, 256  # a data shard's rows, as in the original recipe
LARGE = 64 << 20  # bytes of a leaf that a model axis must split
GB = 10**9


@dataclass(frozen=True)
class Setting:
    """LaVIN's training step as shapes in their shardings.

    Attributes:
      task: the instruct task.
      state: what is trained, and AdamW's state.
      frozen: both towers' weights.
      batch: rows of text with a picture each.
      step: the step.
    """

    task: InstructTask
    state: TrainState
    frozen: PyTree
    batch: PyTree
    step: TrainStep

    @classmethod
    def of(
        cls,
        language: Mapping[str, Any],
        vision: Mapping[str, Any],
        mesh: Mesh | AbstractMesh,
        dtype: Any = jnp.bfloat16,
        int8: bool = False,
        temperature: float = 10.0,
        remat: bool = True,
        rows: int = ROWS,
    ) -> "Setting":
        """Lays the step out on a mesh.

        Args:
          language: a LLaMA's config.json.
          vision: a vision transformer's, or a CLIP's.
          mesh: ("data", "model"), of devices that need not be there.
          dtype: of frozen weights and of the computation.
          int8: whether frozen kernels are int8.
          temperature: of the router.
          remat: whether the language model's layers are computed again going backward.
          rows: of a data shard.

        Returns:
          The setting.
        """
        encoders = [_frozen(raw, mesh, dtype, int8) for raw in (language, vision)]
        (llama, words), (vit, pictures) = encoders
        assert isinstance(llama, Llama)
        assert isinstance(vit, VisionTransformer)
        parts = Multimodal(
            RepAdapter(temperature=temperature),
            RepAdapter(temperature=temperature, routing="per_image"),
        )
        task = InstructTask.of(parts, llama, vit, remat)
        frozen = {"language": words, "image": pictures}
        key = jax.random.key(0)
        trainable = jax.eval_shape(lambda key: task.parts.init(key, words, pictures), key)
        spec = OptimSpec(lr=1.125e-3, weight_decay=0.02, b2=0.95)
        tx, _ = optim.make_optimizer(spec, trainable, 8000)
        state = jax.eval_shape(lambda params, key: create(params, tx, key), trainable, key)
        rows *= mesh.shape["data"]
        size, channels = vit.config.image_size, vit.config.num_channels
        split = NamedSharding(mesh, PartitionSpec("data"))
        whole = NamedSharding(mesh, PartitionSpec())

        def ids(*shape: int, dtype: Any = jnp.int32) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((rows, *shape), dtype, sharding=split)

        text = {name: ids(COLUMNS) for name in ("input_ids", "image_slot", "attention_mask")}
        text |= {name: ids(ANSWERS) for name in ("columns", "labels")}
        text |= {"weights": ids(ANSWERS, dtype=jnp.float32), "modality": ids()}
        pixels = ids(size, size, channels, dtype=jnp.float32)
        return cls(
            task,
            jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), state),
            frozen,
            {"text": text, "image": {"pixel_values": pixels}},
            make_train_step(task, tx),
        )

    def lower(self) -> Any:
        """The step's program, for the mesh's own devices or, on an abstract mesh, for TPUs."""
        leaf = jax.tree.leaves(self.frozen)[0]
        traced = self.step.trace(self.state, self.frozen, self.batch)
        if isinstance(leaf.sharding.mesh, AbstractMesh):
            return traced.lower(lowering_platforms=("tpu",))
        return traced.lower()


def _frozen(
    raw: Mapping[str, Any], mesh: Mesh | AbstractMesh, dtype: Any, int8: bool
) -> tuple[Any, PyTree]:
    """(module, parameters as shapes in the shardings that loading would give them)."""
    tower = "image" if raw["model_type"] == "clip" else None
    family = catalog.find_family(raw, "config.json", tower)
    config = family.config(raw)
    module = family.module(config, dtype=dtype, param_dtype=dtype)
    module = with_kernel(module, choose(mesh, dtype))
    if family.modality == "image":
        side = config.image_size
        example = [jax.ShapeDtypeStruct((1, side, side, config.num_channels), jnp.float32)]
    else:
        example = [jax.ShapeDtypeStruct((1, 1), jnp.int32)] * 2
    target = jax.eval_shape(module.init, jax.random.key(0), *example)["params"]
    rules = sharding.fit(family.sharding(config), target, mesh, family.heads(config))
    return module, placed(target, mesh, rules, "int8" if int8 else None)


def share(tree: PyTree) -> int:
    """Bytes of shapes in their shardings that one device holds."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def unsplit(tree: PyTree) -> list[str]:
    """Paths of leaves of 64 MB and more that lie whole on every device."""
    return [
        path
        for path, leaf in trees.named_leaves(tree)
        if math.prod(leaf.shape) * leaf.dtype.itemsize >= LARGE
        and leaf.sharding.shard_shape(leaf.shape) == leaf.shape
    ]


def run(options: Options) -> Report:
    """Lays the step out on every mesh, and compiles it where there are so many devices.

    Args:
      options: `full` adds the 13B model's compilations.

    Returns:
      GB a device of frozen weights, of what is trained with its optimizer, and of the rest.
    """
    kinds = {"bfloat16": False, "int8": True}
    todo = [(name, kind, mesh) for name in LANGUAGE for kind in kinds for mesh in MESHES]
    rows, samples = [], []
    for name, kind, (data, model) in track(todo, "laying steps out"):
        arguments = LANGUAGE[name], CLIP_L
        chosen = {"int8": kinds[kind], "temperature": TEMPERATURE[name]}
        mesh = AbstractMesh((data, model), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
        setting = Setting.of(*arguments, mesh, **chosen)
        setting.lower()
        sample: dict[str, Any] = {
            "model": name,
            "weights": kind,
            "mesh": [data, model],
            "frozen": share(setting.frozen),
            "state": share(setting.state),
            "unsplit": unsplit(setting.frozen) if model > 1 else [],
        }
        # Over the data axis alone a device does what one does by itself.
        here = data == 1 and model <= jax.device_count()
        if here and (options.full or name == "7B"):
            real = mesh_of(data, model)
            program = Setting.of(*arguments, real, dtype=jnp.float32, **chosen).lower().compile()
            sample["temporary"] = program.memory_analysis().temp_size_in_bytes
        samples.append(sample)
        total = sum(sample.get(part, 0) for part in ("frozen", "state", "temporary"))
        rows.append(
            (
                f"{name}, {kind}, {data} x {model}",
                f"{sample['frozen'] / GB:.2f}",
                f"{sample['state'] / GB:.3f}",
                f"{sample['temporary'] / GB:.2f}" if "temporary" in sample else "-",
                f"{total / GB:.2f}" if "temporary" in sample else "-",
                ", ".join(sample["unsplit"]) or "none",
            )
        )
    title = f"GB a device, {ROWS} rows of {COLUMNS} columns with a picture each, layers recomputed"
    columns = (
        "model, weights, data x model",
        "frozen",
        "trained + AdamW",
        "temporary, f32",
        "sum",
        "whole though large",
    )
    return Report([Grid(title, columns, tuple(rows))], {"found": samples})


def mesh_of(data: int, model: int) -> Mesh:
    """The mesh over the first of the devices at hand."""
    devices = np.array(jax.devices()[: data * model]).reshape(data, model)
    return Mesh(devices, ("data", "model"), axis_types=(AxisType.Auto,) * 2)
