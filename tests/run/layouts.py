"""What each process of `test_layouts.py` does: the same tiny runs on meshes over all processes."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mmjax import checkpoint, sharding
from mmjax.adapters.lora import Lora
from mmjax.adapters.multimodal import Multimodal
from mmjax.data.class_tokens import ClassTokenTable
from mmjax.data.conversations import Conversations
from mmjax.data.layout import Encoded
from mmjax.data.pipeline import Choices, Phase, examples, train_batches
from mmjax.data.tables import RawTable, table_of
from mmjax.encoders import llama
from mmjax.encoders.language_model import IMAGE, WORD
from mmjax.encoders.llama import Llama
from mmjax.encoders.llama_config import LlamaConfig
from mmjax.encoders.output import Inputs, Tower
from mmjax.encoders.vision import VisionConfig, VisionTransformer
from mmjax.evals import View
from mmjax.processes import launchers, starting
from mmjax.runs import adapter_files
from mmjax.specs.dual_encoder import (
    AdapterSpec,
    ContinualSpec,
    HeadSpec,
    LossSpec,
    ResidualSpec,
    WeightingSpec,
)
from mmjax.state import TrainState, create
from mmjax.step import TrainStep, make_train_step
from mmjax.tasks.base import Task
from mmjax.tasks.dual_encoder.contrastive import ContrastiveTask
from mmjax.tasks.dual_encoder.domain import DomainTask
from mmjax.tasks.dual_encoder.language import LanguageTask
from mmjax.tasks.instruct.task import InstructTask
from mmjax.tasks.published import Published
from mmjax.trees import PyTree
from tests.cards import whole_card

MODELS = (1, 2, 4)
STEPS, ROWS = 4, 16
WIDTH, WORDS = 8, 64
LLAMA = {
    **{"model_type": "llama", "vocab_size": WORDS, "hidden_size": 16, "intermediate_size": 32},
    **{"num_hidden_layers": 1, "num_attention_heads": 4, "max_position_embeddings": 16},
}
Found = dict[str, list[float]]  # what -> figures, those of the steps in order


def main(out: Path) -> None:
    """Joins the others, runs everything on every mesh and says what it found."""
    launch = launchers.find_launch(os.environ, asked=True)
    assert launch is not None
    starting.join_processes(launch, peer_timeout=300)  # many processes start on few cores
    found = {}
    for model in MODELS:
        found[str(model)] = measure(sharding.make_mesh(-1, model), out / f"model_{model}")
        check_rows(model)
    (out / f"process_{jax.process_index()}.json").write_text(json.dumps(found))


def measure(mesh: Mesh, folder: Path) -> Found:
    """Losses and evaluations of every task; what is written goes to the folder."""
    model = mesh.shape["model"]
    # What takes long to compile is compiled for one mesh only.
    found = language(mesh, "contrastive" if model == 2 else "distill_mse")
    found["domain"], found["domain_adapter"] = domain(mesh)
    found["instruct"] = instruct(mesh, folder if model == 4 else None)
    check_split(mesh)
    return found


def language(mesh: Mesh, kind: Literal["contrastive", "distill_mse"]) -> Found:
    """A language adapter on an encoder in the step, whose weights the mesh splits."""
    rng, count = np.random.default_rng(0), 2 * ROWS
    beside = "image" if kind == "contrastive" else "text"
    words = rng.integers(0, WORDS, (count, 3))
    texts = RawTable(words, lambda ids: {"input_ids": np.stack(ids)})
    others = table_of(list(rng.normal(size=(count, WIDTH)).astype(np.float32)))
    choices = {
        name: Choices.of(table, [[i] for i in range(count)])
        for name, table in (("foreign", texts), (beside, others))
    }
    head = HeadSpec(out_dim=WIDTH)
    base = ContrastiveTask(Tower("image", WIDTH), Tower("text", WIDTH), head, head, LossSpec())
    adapter = AdapterSpec("linear", input_dropout=0.1)
    task = LanguageTask(Tower("foreign", WIDTH, encode), base, adapter, LossSpec(kind), mesh)

    one = {role: {"features": jnp.zeros((2, WIDTH))} for role in ("image", "text")}
    heads = jax.eval_shape(base.init, jax.random.key(0), {}, one)
    weights = {"words": jnp.zeros((WORDS, WIDTH)), "kernel": jnp.zeros((WIDTH, WIDTH))}
    split = (("kernel", PartitionSpec(None, "model")), ("words", PartitionSpec("model")))
    frozen = {
        "base": sharding.place(drawn(heads), mesh),
        "foreign": sharding.place(drawn(weights), mesh, split),
    }
    phase = Phase(0, choices)
    # The adapter begins at statistics of a batch.
    example = sharding.place_batch(examples(phase, ROWS, 0, mesh), mesh, ROWS)
    init = jax.jit(task.init, out_shardings=sharding.replicated(mesh))
    step, state = begin(task, init(jax.random.key(0), frozen, example), mesh, lr=2e-3)
    batches = train_batches([phase], STEPS, ROWS, 0, mesh)
    state, losses = go_on(step, state, frozen, batches, mesh)
    functions = Published(task, mesh).bind(state.trainable, frozen)
    embedded = functions["embed_texts"](View(texts, np.arange(count)))
    return {kind: losses, "embedded": embedded.ravel().tolist()}


def domain(mesh: Mesh) -> tuple[list[float], list[float]]:
    """Losses of residual adapters on a dual encoder, and the size of each parameter in the end."""
    rng, count = np.random.default_rng(2), 2 * ROWS
    tables = {
        role: table_of(list(rng.normal(size=(count, WIDTH)).astype(np.float32)))
        for role in ("image", "text")
    }
    choices = {r: Choices.of(table, [[i] for i in range(count)]) for r, table in tables.items()}
    head = HeadSpec(out_dim=WIDTH)
    base = ContrastiveTask(Tower("image", WIDTH), Tower("text", WIDTH), head, head, LossSpec())
    one = {role: {"features": jnp.zeros((2, WIDTH))} for role in tables}
    heads = jax.eval_shape(base.init, jax.random.key(0), {}, one)
    frozen = {"base": sharding.place(drawn(heads), mesh)}
    weighing = WeightingSpec(pairs="focal", beta=0.5)
    task = DomainTask(base, ResidualSpec(bottleneck=4), weighing, ContinualSpec(), LossSpec(), mesh)
    phase = Phase(0, choices)
    example = sharding.place_batch(examples(phase, ROWS, 0, mesh), mesh, ROWS)
    init = jax.jit(task.init, out_shardings=sharding.replicated(mesh))
    step, state = begin(task, init(jax.random.key(0), frozen, example), mesh, lr=2e-3)
    batches = train_batches([phase], STEPS, ROWS, 0, mesh)
    state, losses = go_on(step, state, frozen, batches, mesh)
    return losses, [float(np.sum(np.abs(x))) for x in jax.tree.leaves(state.trainable)]


def encode(params: PyTree, inputs: Inputs) -> Inputs:
    """An encoder: words, and a map of each."""
    ids = inputs["input_ids"]
    features = jnp.tanh(params["words"][ids] @ params["kernel"])
    return {"features": features, "mask": jnp.ones(ids.shape, bool)}


def instruct(mesh: Mesh, folder: Path | None) -> list[float]:
    """Losses of a LLaMA's LoRA; with a folder it is saved halfway, gone on with and kept."""
    rng, length, key = np.random.default_rng(0), 12, jax.random.key(0)
    config = LlamaConfig.from_hf(LLAMA)
    module, ids = Llama(config), jax.ShapeDtypeStruct((1, 2), jnp.int32)
    weights = drawn(jax.eval_shape(module.init, key, ids, ids)["params"])
    rules = sharding.fit(llama.sharding(config), weights, mesh)
    frozen = {"language": sharding.place(weights, mesh, rules), "image": {}}
    parts = Multimodal(Lora(rank=2, targets=("query", "out")), None, taps=1, hidden=4)
    vision = VisionTransformer(VisionConfig(WIDTH, 1, 1, WIDTH, 2, 2, 2))
    tower = jax.eval_shape(vision.init, key, jnp.zeros((1, 2, 2, 3)))["params"]
    task = InstructTask.of(parts, module, vision)
    trainable = drawn(jax.eval_shape(parts.init, key, weights, tower))

    slots = np.full(length, WORD, np.int32)
    slots[1] = 0  # here stands the picture
    rows = [
        Encoded(
            rng.integers(3, WORDS, length).astype(np.int32),
            slots,
            np.arange(8, length, dtype=np.int32),
            IMAGE,
        )
        for _ in range(4 * ROWS)
    ]
    shown = ClassTokenTable(rng.normal(size=(2 * ROWS, 1, WIDTH)).astype(np.float32))
    data = Conversations(rows, np.arange(len(rows)) // 2, shown, 2, first=parts.routed)
    step, fresh = begin(task, trainable, mesh)
    batches = data.batches(STEPS, ROWS, 0, mesh)
    state, first = go_on(step, fresh, frozen, batches, mesh, STEPS // 2)
    if folder is None:
        return first + go_on(step, state, frozen, batches, mesh)[1]

    kept = checkpoint.Checkpoints(folder / "checkpoints", 1, {})
    kept.save(state, batches, {"best": 0.5})
    state, rest = go_on(step, state, frozen, batches, mesh)
    kept.close()
    _, fresh = begin(task, trainable, mesh)  # the first one was donated
    again = data.batches(STEPS, ROWS, 0, mesh)
    restored = checkpoint.Checkpoints(folder / "checkpoints", 1, {}).restore(fresh, again)
    assert restored is not None
    assert restored[1] == {"best": 0.5}
    other, repeated = go_on(step, restored[0], frozen, again, mesh)
    assert repeated == rest
    assert checkpoint._fingerprint(other) == checkpoint._fingerprint(state)

    card = whole_card("instruct", step=STEPS)
    adapter_files.save_adapter(folder / "adapter", state.trainable, card)
    loaded, _ = adapter_files.load_adapter_params(folder / "adapter")
    chex.assert_trees_all_equal(loaded, sharding.to_host(state.trainable))
    return first + rest


def drawn(shapes: PyTree) -> PyTree:
    """Numbers of the host in these shapes: nothing is compiled for them."""
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: rng.normal(scale=0.2, size=x.shape).astype(np.float32), shapes)


def begin(
    task: Task, trainable: PyTree, mesh: Mesh, lr: float = 0.1
) -> tuple[TrainStep, TrainState]:
    """A step and the state before the first."""
    tx = optax.sgd(lr, momentum=0.9)
    state = create(trainable, tx, jax.random.key(1))
    return make_train_step(task, tx), sharding.place(state, mesh)


def go_on(
    step: TrainStep,
    state: TrainState,
    frozen: PyTree,
    batches: Iterator[PyTree],
    mesh: Mesh,
    until: int = STEPS,
) -> tuple[TrainState, list[float]]:
    """Steps on this process's rows up to a number; the state and the losses."""
    losses = []
    while int(state.step) < until:
        state, metrics = step(state, frozen, sharding.place_batch(next(batches), mesh, ROWS))
        losses.append(float(metrics["loss"].total))
        for leaf in jax.tree.leaves(state):
            assert leaf.is_fully_replicated, leaf.sharding
    return state, losses


def check_split(mesh: Mesh) -> None:
    """What is split over processes is read and named like what is whole."""
    values = np.arange(64, dtype=np.float32).reshape(8, 8)
    names = []
    for spec in (PartitionSpec(), PartitionSpec("model"), PartitionSpec("data", "model")):
        placed = jax.device_put(values, NamedSharding(mesh, spec))
        state = TrainState(np.int32(0), {"w": placed}, (), np.zeros(2, np.uint32))  # pyright: ignore[reportArgumentType]
        names.append(checkpoint._fingerprint(state))
        np.testing.assert_array_equal(sharding.to_host(placed), values)
    assert names[0]
    assert len(set(names)) == 1


def check_rows(model: int) -> None:
    """Every device gets its own rows, in whatever order the devices stand."""
    for seed in range(4):
        order = np.random.default_rng(seed).permutation(jax.device_count())
        devices = np.array(jax.devices())[order].reshape(-1, model)
        mesh = Mesh(devices, ("data", "model"), axis_types=(AxisType.Auto, AxisType.Auto))
        own = sharding.own_rows(ROWS, mesh)
        batch = {"x": 10 * own, "few": sharding.own_rows(ROWS // 2, mesh)}  # pictures of two rows
        placed = sharding.place_batch(batch, mesh, ROWS)
        whole = sharding.place_batch({"x": 10 * np.arange(ROWS)}, mesh)
        for name, x, wanted in (
            ("x", placed["x"], 10 * np.arange(ROWS)),
            ("few", placed["few"], np.arange(ROWS // 2)),
            ("whole", whole["x"], 10 * np.arange(ROWS)),
        ):
            assert x.shape == wanted.shape, name
            for shard in x.addressable_shards:
                np.testing.assert_array_equal(shard.data, wanted[shard.index])


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", int(sys.argv[1]))
    jax.config.update("jax_disable_most_optimizations", True)  # compiled once, hardly run
    main(Path(sys.argv[2]))
