"""instruct on a Qwen-VL, a Gemma 3 and an Mllama: losses, what learns, answers, refusals."""

import json
import os
import signal
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import mmjax
from mmjax import trees
from mmjax.encoders import LanguageModel
from mmjax.encoders.language_model import IMAGE, WORD
from mmjax.errors import MmjaxError
from mmjax.generation import score
from mmjax.plan import arithmetic
from mmjax.plan.programs import programs
from mmjax.processes import interrupts
from mmjax.runs.adapter_files import load_adapter_params
from mmjax.sharding import place_batch
from mmjax.tasks.instruct.assembly import assemble_instruct
from mmjax.training import train
from mmjax.writer import MetricsWriter
from tests.tasks.instruct.llava_world import config, library_of, runs_of
from tests.tasks.instruct.own_tower_world import CONSTANTS, write_world
from tests.tasks.instruct.test_llava import collapsed, losses, moved, spans

NAMES = sorted(CONSTANTS)
QWEN, GEMMA, MLLAMA = "qwen2_5_vl_tiny", "gemma3_tiny", "mllama_tiny"
PROJECTORS = {
    QWEN: {"merger_norm", "merger_1", "merger_2"},
    GEMMA: {"soft_norm", "projector"},
    MLLAMA: {"projector"},
}
GATES = ("attention_gate", "mlp_gate")
INSIDE = {"kind": "lora", "rank": 2, "targets": ["query", "value"]}


@pytest.fixture(scope="module")
def world(tmp_path_factory, write_folder) -> Any:
    return write_world(tmp_path_factory.mktemp("own"), write_folder)


@pytest.fixture
def library(mesh) -> Any:
    return library_of(mesh(1))


@pytest.mark.parametrize("name", NAMES)
def test_losses_are_those_of_the_whole_model(name, world, library, tmp_path):
    """Of answers behind pictures of several sizes, and behind none, with adapters in both towers.

    The whole model scores the same answers behind prompts with the same pictures.
    """
    recipe = config(world, name)
    recipe["questions"]["per_picture"] = 2  # that share what the image tower says
    (run,) = runs_of(recipe, tmp_path)
    assembly = assemble_instruct(run, library)
    task, rows = assembly.task, assembly.data.train
    assert assembly.initial is not None
    trainable = moved(task, assembly.initial(jax.random.key(0)))
    whole = library.encoder(run.stage.encoders["language"])
    assert isinstance(whole, LanguageModel)
    whole = whole.with_hook(task.parts.language).with_hook(task.parts.vision, tower="image")
    adapters = {"text": trainable["language"], "image": trainable["vision"]}
    table: Any = rows.table
    # Of each row its answers, and the prompts before them: number of tokens, ids, pictures.
    prompts, answers, shown = list[list[int]](), list[list[list[int]]](), list[list[Any]]()
    for row, picture in zip(rows.rows, rows.images.tolist(), strict=True):
        for start, end in spans(row.answers):
            ids, slots = row.ids[:start], row.slots[:start]
            prompts.append(ids.tolist() if picture == WORD else collapsed(ids, slots))
            answers.append([row.ids[start:end].tolist()])
            shown.append([] if picture == WORD else [table.items[picture]])
    scored = iter(score(whole, prompts, answers, adapters, shown))
    wanted = [sum(next(scored)[0].log_prob for _ in spans(row.answers)) for row in rows.rows]
    loss, kinds = jax.jit(task.loss), list[bool]()
    for groups in rows.plan(4, None):
        batch, at = rows.batch(groups, 4), [i for group in groups for i in group]
        found, metrics = loss(trainable, assembly.frozen, batch, jax.random.key(0))
        count = sum(len(rows.rows[i].answers) for i in at)
        assert_allclose(found, -sum(wanted[i] for i in at) / count, atol=1e-5)
        kinds.append("picture_loss" in metrics)
        assert kinds[-1] == ("image" in batch)
    assert set(kinds) == {True, False}
    pictures = [row for row in rows.rows if row.modality == IMAGE]
    tokens = {len(row.slots[row.slots != WORD]) for row in pictures}
    assert len(tokens) == (2 if name == QWEN else 1)  # of a picture
    assert {row.positions is None for row in pictures} == {name != QWEN}
    assert len({row.size for row in pictures}) == (2 if name == QWEN else 1)


def stopped(run: Any, library: Any, monkeypatch: Any) -> None:
    """A training that somebody ends at its first line of metrics."""
    write = MetricsWriter.write

    def and_stop(self: Any, step: int, values: Any) -> None:
        write(self, step, values)
        monkeypatch.undo()  # a second signal would end the tests
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(MetricsWriter, "write", and_stop)
    with interrupts.installed(), pytest.raises(interrupts.Interrupted):
        train(run, library)
    assert not run.is_done


@pytest.mark.parametrize("name", NAMES)
def test_it_trains_goes_on_and_answers_as_it_was_measured(
    name, world, library, tmp_path, monkeypatch
):
    recipe = config(world, name, adapter="none")
    recipe["adapters"] = {"language": INSIDE, "image": INSIDE}
    recipe["optim"] = {"lr": 0.1}  # or two steps would change no word
    (run,) = runs_of(recipe, tmp_path)
    whole = library.encoder(run.stage.encoders["language"]).params
    before = jax.tree.map(np.array, whole)
    stopped(run, library, monkeypatch)
    train(run, library)
    assert len(losses(run)) == 2
    assembly = assemble_instruct(run, library)
    assert assembly.initial is not None
    params, _ = load_adapter_params(run.adapter)
    assert set(params) == {"language", "vision"}
    first = dict(trees.named_leaves(assembly.initial(jax.random.key(0))))
    for path, leaf in trees.named_leaves(params):
        assert leaf.shape == first[path].shape
        assert np.abs(leaf).max() > 0, path  # one of each pair begins at zero
    chex.assert_trees_all_equal(before, whole)  # the base stays what it was

    data = assembly.data
    bound = data.publish(assembly.task, library.mesh).bind(params, assembly.frozen)
    asked = data.test["adapted"].conversations
    said, shown = bound["said"](asked, 4), asked.images != WORD
    assert 0 < shown.sum() < len(asked), "with pictures and without"
    table: Any = asked.table
    pictures = [table.items[i] for i in asked.images[shown].tolist()]
    adapted = mmjax.load_adapter(run.adapter, kind=mmjax.Answering, mesh=library.mesh)
    again = adapted.answer(["w5 w6"] * len(pictures), pictures, max_new_tokens=4)
    assert [one.text for one in again] == [t for t, see in zip(said, shown, strict=True) if see]
    told = adapted.answer(["w5 w6"], max_new_tokens=4)[0].text
    assert told == next(t for t, see in zip(said, shown, strict=True) if not see)
    blank = bound["log_prob"](data.test["blank"].conversations)
    moved_by = np.abs(blank - bound["log_prob"](asked))
    assert moved_by[shown].min() > 1e-6
    assert moved_by[~shown].max() == 0


@pytest.mark.parametrize("name", NAMES)
def test_what_may_learn_and_that_it_all_does(name, world, library, tmp_path):
    def task_of(**instruct: Any) -> tuple[Any, Any]:
        (run,) = runs_of(config(world, name, adapter="none", **instruct), tmp_path)
        assembly = assemble_instruct(run, library)
        return assembly, {"/".join(part) for part in assembly.task.weights}

    model = library.encoder(runs_of(config(world, name), tmp_path)[0].stage.encoders["language"])
    decoder = {f"language/{part}" for part in model.params["language_model"]}
    projector = {f"image/{part}" for part in PROJECTORS[name]}
    assert task_of(train="projector")[1] == projector
    assert task_of(train="full", visual=False)[1] == decoder | projector
    assembly, learned = task_of(train="full", remat=True)
    assert learned == decoder | projector | {"image/vision"}
    trainable = assembly.initial(jax.random.key(0))
    if name == MLLAMA:  # whose gates are closed at first: nothing behind them would learn
        crossing = trainable["weights"]["language"]["crossing"]
        crossing |= {gate: jnp.ones_like(crossing[gate]) for gate in GATES}
    rows = assembly.data.train
    groups = next(g for g in rows.plan(2, None) if rows.images[g[0][0]] != WORD)
    grad = jax.jit(jax.grad(lambda *x: assembly.task.loss(*x, jax.random.key(0))[0]))
    found = grad(trainable, assembly.frozen, rows.batch(groups, 2))
    still = [
        path
        for path, leaf in trees.named_leaves(found)
        if not np.abs(leaf).max() > 0 and not path.endswith("key/bias")
    ]
    assert not still


@pytest.mark.parametrize("name", NAMES)
def test_a_loss_is_the_same_where_rows_and_weights_are_split(name, world, mesh, tmp_path):
    (run,) = runs_of(config(world, name, train="projector"), tmp_path)
    found = []
    for shape in ((1, 1), (2, 2)):
        assembly = assemble_instruct(run, library_of(mesh(*shape)))
        assert assembly.initial is not None
        trainable, rows = assembly.initial(jax.random.key(0)), assembly.data.train
        groups = next(g for g in rows.plan(2, None) if rows.images[g[0][0]] != WORD)
        batch = place_batch(rows.batch(groups, 2), mesh(*shape), 2)
        loss = jax.jit(assembly.task.loss)
        found.append(loss(trainable, assembly.frozen, batch, jax.random.key(1))[0])
    assert_allclose(*found, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_its_plan_is_of_such_batches(name, world, library, mesh, tmp_path):
    (run,) = runs_of(config(world, name), tmp_path)
    rows = assemble_instruct(run, library).data.train
    groups = next(g for g in rows.plan(2, None) if rows.images[g[0][0]] != WORD)
    real = dict(trees.named_leaves(rows.batch(groups, 2)))
    (step,) = (p for p in programs(run.recipe, mesh(1)) if p.name.endswith("train step"))
    planned = dict(trees.named_leaves(step.arguments["batch"]))
    assert planned.keys() == real.keys()
    for path, shape in planned.items():
        assert shape.dtype == real[path].dtype, path
        assert len(shape.shape) == real[path].ndim, path
        assert all(x >= y for x, y in zip(shape.shape, real[path].shape, strict=True)), path
    assert arithmetic.flops(step) > 0


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (QWEN, {"encoders": {"image": {"source": "x"}}}, "is a qwen2_5_vl, which has an image"),
        (MLLAMA, {"encoders": {"image": {"source": "x"}}}, "is a mllama, which has an image tower"),
        (QWEN, {"instruct": {"adapter": "routed"}}, "no router in the image tower of a qwen2_5_vl"),
        (MLLAMA, {"adapters": {"image": {"kind": "vpt"}}}, "no tokens in the image tower of a ml"),
        (QWEN, {"instruct": {"adapter": "none"}}, "nothing of a qwen2_5_vl learns with 'none'"),
        (
            MLLAMA,
            {"train": {"cache_features": True}, "instruct": {"visual": False}},
            "a mllama's pictures are read in every step",
        ),
    ],
)
def test_recipes_that_are_refused(name, changes, message, world, library, tmp_path):
    recipe = config(world, name)
    if "adapters" in changes:
        recipe["instruct"]["adapter"] = "none"
    recipe = {**recipe, **{k: {**recipe.get(k, {}), **v} for k, v in changes.items()}}
    with pytest.raises(MmjaxError, match=message):
        assemble_instruct(runs_of(recipe, tmp_path)[0], library)


@pytest.mark.parametrize("name", NAMES)
def test_pictures_that_cannot_be_read_are_named(name, world, library, tmp_path):
    lines = [json.loads(line) for line in (world / "composed.jsonl").read_text().splitlines()]
    for one in lines:
        one["images"] = [str(tmp_path / "bad.png")]
    (tmp_path / "bad.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    whole = (world / "0.png").read_bytes()
    recipe = config(world, name)
    recipe["questions"]["source"] = f"records:{tmp_path / 'bad.jsonl'}"

    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.raises(MmjaxError, match=r"bad\.png.* cannot be read: cannot identify it"):
        assemble_instruct(runs_of(recipe, tmp_path / "a")[0], library).data.train.batch([[0]], 1)
    (tmp_path / "bad.png").write_bytes(whole[: len(whole) // 2])
    data = assemble_instruct(runs_of(recipe, tmp_path / "b")[0], library_of(library.mesh)).data
    with pytest.raises(MmjaxError, match=r"bad\.png.* cannot be read: "):
        data.train.batch([[0]], 1)
