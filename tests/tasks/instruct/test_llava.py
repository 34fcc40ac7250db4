"""instruct on a LLaVA: what learns and what does not, tiles, meshes, stopping and going on."""

import json
import os
import signal
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from numpy.testing import assert_allclose

import mmjax
from mmjax import trees
from mmjax.data.markers import markers_of
from mmjax.data.turn_records import Message
from mmjax.encoders.language_model import WORD
from mmjax.errors import MmjaxError
from mmjax.generation import score
from mmjax.processes import interrupts
from mmjax.runs.adapter_files import load_adapter_params
from mmjax.sharding import place_batch
from mmjax.specs.recipe import resolve_recipe
from mmjax.tasks.instruct.assembly import assemble_instruct, trained
from mmjax.training import train
from mmjax.writer import MetricsWriter
from tests.tasks.instruct.llava_world import (
    config,
    library_of,
    pictures_of,
    runs_of,
    write_world,
)

PROJECTOR = {"image/linear_1", "image/linear_2", "image/image_newline"}


@pytest.fixture(scope="module")
def world(tmp_path_factory, write_folder) -> Any:
    return write_world(tmp_path_factory.mktemp("world"), write_folder)


@pytest.fixture
def library(mesh) -> Any:
    return library_of(mesh(1))


def moved(task: Any, trainable: Any) -> Any:
    """As after training: every part is another."""
    random = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: x + jnp.asarray(0.1 * random.standard_normal(x.shape), x.dtype), trainable
    )


@pytest.mark.parametrize(
    ("name", "adapter"),
    [
        ("llava_next_tiny", "routed"),
        pytest.param("llava_tiny", "lora", marks=pytest.mark.slow),
        pytest.param("llava_next_tiny", "ia3", marks=pytest.mark.slow),
    ],
)
def test_at_first_answers_are_the_frozen_llavas(name, adapter, world, library, tmp_path):
    """By another way: the whole model scores the same answers behind prompts with pictures."""
    (run,) = runs_of(config(world, name, adapter=adapter), tmp_path)
    whole = library.encoder(run.stage.encoders["language"])
    assembly = assemble_instruct(run, library)
    task, data = assembly.task, assembly.data
    assert assembly.initial is not None
    trainable = assembly.initial(jax.random.key(0))
    asked = data.test["adapted"].conversations
    ask = data.publish(task, library.mesh)
    found = ask.bind(trainable, assembly.frozen)["log_prob"](asked)
    wanted = []
    for row, picture in zip(asked.rows, pictures_of(asked), strict=True):
        parts, at = [], int(asked.first)
        for start, end in spans(row.answers):
            prompt = collapsed(row.ids[at:start], row.slots[at:start])
            ((one,),) = score(whole, [prompt], [[row.ids[start:end].tolist()]], images=[[picture]])
            parts.append(one.log_prob)
        wanted.append(sum(parts))
    assert_allclose(found, wanted, atol=1e-4)
    other = ask.bind(moved(task, trainable), assembly.frozen)["log_prob"](asked)
    assert np.abs(other - found).min() > 1e-3
    assert (max(row.size for row in asked.rows) > 1) == (name == "llava_next_tiny")


def spans(answers: np.ndarray) -> list[tuple[int, int]]:
    """Runs of columns that are learned: from, to."""
    breaks = np.flatnonzero(np.diff(answers) > 1) + 1
    return [(int(part[0]), int(part[-1]) + 1) for part in np.split(answers, breaks)]


def collapsed(ids: np.ndarray, slots: np.ndarray) -> list[int]:
    """Token ids with one image token for a whole picture."""
    first = np.flatnonzero(slots != WORD)[0]
    return [
        int(x) for i, (x, s) in enumerate(zip(ids, slots, strict=True)) if s == WORD or i == first
    ]


@pytest.mark.parametrize(
    ("name", "instruct", "learned"),
    [
        ("llava_next_tiny", {"adapter": "none", "train": "full", "visual": False}, None),
        pytest.param(
            "llava_tiny", {"adapter": "none", "train": "full"}, None, marks=pytest.mark.slow
        ),
        ("llava_tiny", {"adapter": "none", "train": "projector"}, PROJECTOR),
        pytest.param(
            "llava_next_tiny",
            {"train": "projector", "visual": False},
            PROJECTOR | {"language/query"},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_what_learns_and_nothing_else(name, instruct, learned, world, library, tmp_path):
    (run,) = runs_of(config(world, name, **instruct), tmp_path)
    whole = library.encoder(run.stage.encoders["language"]).params
    before = jax.tree.map(np.array, whole)
    train(run, library)
    params, card = load_adapter_params(run.adapter)
    weights, frozen = params.get("weights", {}), assemble_instruct(run, library).frozen
    tops = {f"{role}/{part}" for role, tree in weights.items() for part in tree}
    everything = {f"language/{p}" for p in whole["language_model"]}
    everything |= {f"image/{p}" for p in whole if p != "language_model"}
    if learned is None:
        assert tops == everything - (
            {"image/vision"} if not instruct.get("visual", True) else set()
        )
        assert set(params) == {"weights"}
    else:
        assert tops == learned & everything
        assert set(params) - {"weights"} == ({"language"} if "language/query" in learned else set())
    kept = {f"{role}/{part}" for role, tree in frozen.items() for part in tree}
    assert kept == everything - tops  # no weight is there twice
    chex.assert_trees_all_equal(before, whole)  # the base stays what it was
    own = {"language": before["language_model"], "image": before}
    for role, tree in weights.items():
        for path, leaf in trees.named_leaves({part: own[role][part] for part in tree}):
            new = dict(trees.named_leaves(tree))[path]
            # Keys' biases move nothing; a LLaVA-1.5 has no rows that end.
            assert np.abs(new - leaf).max() > 0 or path.endswith("key/bias"), path
    assert card["stage"]["instruct"]["train"] == instruct.get("train", "adapter")


def losses(run: Any) -> list[float]:
    lines = (run.folder / "metrics.jsonl").read_text().splitlines()
    return [row["loss"] for row in map(json.loads, lines) if "loss" in row]


@pytest.mark.parametrize(
    ("name", "instruct", "large"),
    [
        pytest.param(
            "llava_next_tiny",
            {"train": "projector", "adapter": "routed"},
            "image/linear_1/kernel",
            marks=pytest.mark.slow,
        ),
        ("llava_tiny", {"train": "full", "adapter": "none"}, "language/layers/gate/kernel"),
    ],
)
def test_a_mesh_of_eight_trains_the_same(name, instruct, large, world, mesh, tmp_path):
    found = []
    for shape in ((1, 1), (2, 4)):
        # Adam divides by what is close to 0 at first; plain steps differ as gradients do.
        recipe = {**config(world, name, **instruct), "optim": {"name": "sgd", "lr": 0.1}}
        (run,) = runs_of(recipe, tmp_path / str(shape))
        library = library_of(mesh(*shape))
        assembly = assemble_instruct(run, library)
        assert assembly.initial is not None
        trainable = assembly.initial(jax.random.key(0))
        split = [p for p, x in trees.named_leaves(trainable) if not x.is_fully_replicated]
        assert (f"weights/{large}" in split) == (shape == (2, 4))  # as the model's own are
        assert all(path.startswith("weights/") for path in split)
        train(run, library)
        found.append((losses(run), load_adapter_params(run.adapter)[0]))
    assert len(found[0][0]) == 2
    assert_allclose(found[0][0], found[1][0], rtol=1e-5)
    chex.assert_trees_all_close(found[0][1], found[1][1], atol=1e-5, rtol=1e-7)


def test_stopped_and_started_again_it_ends_the_same(world, library, tmp_path, monkeypatch):
    recipe = config(world, "llava_next_tiny", train="full", adapter="none", visual=False)
    recipe["train"] |= {"steps": 4, "eval_every": 4}
    (straight,), (other,) = (runs_of(recipe, tmp_path / n) for n in ("straight", "other"))
    train(straight, library)
    write = MetricsWriter.write

    def and_stop(self: Any, step: int, values: Any) -> None:
        write(self, step, values)
        monkeypatch.undo()  # a second signal would end the tests
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(MetricsWriter, "write", and_stop)
    with interrupts.installed(), pytest.raises(interrupts.Interrupted):
        train(other, library)
    assert not other.is_done
    train(other, library)
    one, two = (load_adapter_params(run.adapter) for run in (straight, other))
    assert one[1]["trainable"] == two[1]["trainable"]
    assert losses(straight) == losses(other)


def test_a_loaded_llava_answers_as_it_was_measured(world, library, tmp_path):
    recipe = config(world, "llava_next_tiny", train="projector")
    (run,) = runs_of(recipe, tmp_path)
    train(run, library)
    assembly = assemble_instruct(run, library)
    data, (params, _) = assembly.data, load_adapter_params(run.adapter)
    bound = data.publish(assembly.task, library.mesh).bind(params, assembly.frozen)
    asked = data.test["adapted"].conversations
    said = bound["said"](asked, 4)
    adapted = mmjax.load_adapter(run.adapter, kind=mmjax.Answering, mesh=library.mesh)
    assert adapted.talks
    pictures = pictures_of(asked)
    again = adapted.answer(["w5 w6"] * len(pictures), pictures, max_new_tokens=4)
    assert [one.text for one in again] == said
    prompt = markers_of("vicuna").write([Message("user", "w5 w6")], then="assistant")
    assert [one.text for one in adapted.write([prompt] * len(pictures), pictures, 4)] == said
    ((one, other),) = adapted.score(["w5 w6"], [[said[0], "w6 w7"]], pictures[:1])
    assert one.log_prob != other.log_prob
    blank = bound["log_prob"](data.test["blank"].conversations)
    assert np.abs(blank - bound["log_prob"](asked)).max() > 1e-3


def test_a_stage_begins_where_another_ended(world, library, tmp_path):
    captions = {
        "questions": {"source": f"records:{world / 'captions.jsonl'}"},
        "instruct": {"train": "projector", "adapter": "none", "start": ""},
    }
    recipe = config(world, train="projector", start="captions")
    first, second = runs_of({**recipe, "variants": {"captions": captions}}, tmp_path)
    train(first, library)
    taught, card = load_adapter_params(first.adapter)
    assembly = assemble_instruct(second, library)
    assert assembly.initial is not None
    assert assembly.on_card["start"] == card["trainable"]["fingerprint"]
    begun = assembly.initial(jax.random.key(0))
    chex.assert_trees_all_equal(begun["weights"], taught["weights"])
    assert "language" in begun
    # By path the same; and what would be lost is refused.
    (by_path,) = runs_of(config(world, train="projector", start=str(first.folder)), tmp_path / "b")
    again = assemble_instruct(by_path, library).initial
    assert again is not None
    chex.assert_trees_all_equal(again(jax.random.key(0))["weights"], taught["weights"])
    (lost,) = runs_of(config(world, start=str(first.folder)), tmp_path / "c")
    begin = assemble_instruct(lost, library).initial
    assert begin is not None
    with pytest.raises(MmjaxError, match=r"instruct.start: .* trained weights/image/linear_1/bias"):
        begin(jax.random.key(0))


def test_a_text_cannot_spell_the_image_token(world, library, tmp_path):
    spelt = tmp_path / "spelt.jsonl"
    lines = [json.loads(line) for line in (world / "composed.jsonl").read_text().splitlines()]
    for line in lines:
        line["turns"][1]["text"] += " <image>"
    spelt.write_text("".join(json.dumps(line) + "\n" for line in lines))
    recipe = config(world)
    recipe["questions"]["source"] = f"records:{spelt}"
    (run,) = runs_of(recipe, tmp_path / "run")
    rows = assemble_instruct(run, library).data.train.rows
    assert {int((row.ids == 50).sum()) for row in rows} == {25}  # one picture's tokens


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"instruct": {"adapter": "none"}}, "instruct.adapter is 'none'; expected an adapter"),
        ({"instruct": {"train": "full"}}, "instruct.adapter is 'lora'; expected 'none' with train"),
        ({"instruct": {"start": "first"}}, "instruct.start is 'first', which is no earlier stage"),
        ({"train": {"cache_features": True}}, "train.cache_features"),
        ({"encoders": {"image": {"source": "x"}}}, "is a llava, which has an image tower"),
        ({"questions": {"source": "alpaca:x"}}, "questions.markers is 'vicuna'"),
    ],
)
def test_recipes_that_are_refused(changes, message, world, library, tmp_path):
    recipe = config(world)
    recipe = {**recipe, **{k: {**recipe[k], **v} for k, v in changes.items()}}
    with pytest.raises(MmjaxError, match=message):
        assemble_instruct(runs_of(recipe, tmp_path)[0], library)


@pytest.mark.slow
def test_int8_weights_do_not_learn_but_adapters_beside_them_do(world, library, tmp_path):
    recipe = config(world)
    recipe["encoders"]["language"]["quantize"] = "int8"
    (run,) = runs_of(recipe, tmp_path)
    train(run, library)
    recipe["instruct"] |= {"train": "projector"}
    (run,) = runs_of(recipe, tmp_path / "other")
    with pytest.raises(MmjaxError, match=r"instruct.train is 'projector'; .* int8 does not learn"):
        assemble_instruct(run, library)
    assert resolve_recipe(recipe).main.encoders["language"].quantize == "int8"


@pytest.mark.slow
def test_lavins_join_may_learn_all_of_its_language_model(world, library, write_folder, tmp_path):
    recipe = config(world, train="full", adapter="none", taps=2, hidden=4, visual=False)
    encoders = {"language": "llama_tiny", "image": "clip_tiny"}
    recipe["encoders"] = {
        role: {"source": str(write_folder(tmp_path / name, name))}
        for role, name in encoders.items()
    }
    (run,) = runs_of(recipe, tmp_path / "run")
    train(run, library)
    params, _ = load_adapter_params(run.adapter)
    assert set(params) == {"projection", "weights"}
    assert set(params["weights"]) == {"language"}
    adapted = mmjax.load_adapter(run.adapter, kind=mmjax.Answering, mesh=library.mesh)
    again = assemble_instruct(run, library)
    ask = again.data.publish(again.task, library.mesh)
    given = ask.bind(trained(run, again.task, library), again.frozen)
    asked = again.data.test["adapted"].conversations
    shown = pictures_of(asked)
    told = adapted.answer(["w5 w6"] * len(shown), shown, max_new_tokens=3)
    assert [one.text for one in told] == given["said"](asked, 3)
    recipe["instruct"] |= {"train": "projector", "adapter": "lora"}
    with pytest.raises(MmjaxError, match="'none' with train='projector'"):
        assemble_instruct(runs_of(recipe, tmp_path / "other")[0], library)


def test_batches_hold_no_more_tiles_than_they_need(world, library, mesh, tmp_path):
    (run,) = runs_of(config(world, "llava_next_tiny"), tmp_path)
    data = assemble_instruct(run, library).data
    rows, counts = data.train, set()
    for groups in rows.plan(2, np.random.default_rng(0)):
        batch = rows.batch(groups, 2)
        most = max(rows.rows[i].size for group in groups for i in group)
        assert batch["image"]["pixel_values"].shape == (2, most, 20, 20, 3)
        counts.add(most)
        placed = place_batch(batch, mesh(2), 2)["image"]["pixel_values"]
        assert isinstance(placed.sharding, NamedSharding)
    assert len(counts) > 1
