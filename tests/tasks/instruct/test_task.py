"""The instruct task: gradients by tokens, text alone, and what greedy decoding would say."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose

from mmjax.adapters.dora import DoRA
from mmjax.adapters.multimodal import Multimodal
from mmjax.adapters.rep_adapter import RepAdapter, bind, routing_table
from mmjax.adapters.vpt import VPT
from mmjax.encoders import Encoder, LanguageModel, load_encoder
from mmjax.encoders.joined import among
from mmjax.encoders.language_model import WORD, embed
from mmjax.errors import MmjaxError
from mmjax.generation import generate
from mmjax.specs.instruct import InstructSpec
from mmjax.specs.spec import EncoderSpec, Stage, TrainSpec
from mmjax.state import create
from mmjax.step import make_train_step
from mmjax.tasks.instruct.build import make_instruct, parts_of
from mmjax.tasks.instruct.task import InstructTask

PARTS = Multimodal(
    RepAdapter(rank=4, dropout=0.0), RepAdapter(rank=4, routing="per_image", dropout=0.0), 2, 6
)


@pytest.fixture(scope="module")
def towers(tmp_path_factory, write_folder) -> tuple[LanguageModel, Encoder]:
    folder = tmp_path_factory.mktemp("towers")
    write_folder(folder / "language", "llama_tiny")
    write_folder(folder / "image", "dinov2_tiny")
    language = load_encoder(folder / "language")
    assert isinstance(language, LanguageModel)
    return language, load_encoder(folder / "image")


def batch_of(pictures: bool) -> dict[str, Any]:
    """Four rows of unequal numbers of answer tokens; two pictures for two rows each."""
    random = np.random.default_rng(0)
    text = {
        "input_ids": random.integers(4, 50, (4, 9)).astype(np.int32),
        "image_slot": np.full((4, 9), WORD, np.int32),
        "attention_mask": np.ones((4, 9), np.int32),
        "columns": np.tile(np.array([5, 6, 7], np.int32), (4, 1)),
        "labels": random.integers(4, 50, (4, 3)).astype(np.int32),
        "weights": np.array([[1, 1, 1], [1, 1, 1], [1, 0, 0], [0, 0, 0]], np.float32),
        "modality": np.full(4, int(pictures), np.int32),
    }
    text["attention_mask"][:, 0] = 0
    if not pictures:
        return {"text": text}
    text["image_slot"][:, 2:4] = [0, 1]
    pixels = random.standard_normal((2, 20, 20, 3)).astype(np.float32)
    return {"text": text, "image": {"pixel_values": pixels}}


@pytest.mark.parametrize(
    ("block", "language", "vision"),
    [
        ("none", False, False),
        ("vision", False, True),
        ("language", True, False),
        ("both", True, True),
    ],
)
def test_towers_have_adapters_before_feed_forward_parts_where_that_is_said(block, language, vision):
    parts = parts_of(InstructSpec(feed_forward=block))
    assert isinstance(parts.language, RepAdapter)
    assert isinstance(parts.vision, RepAdapter)
    assert (parts.language.feed_forward, parts.vision.feed_forward) == (language, vision)


@pytest.mark.slow
def test_micro_batches_weigh_tokens_and_not_themselves(towers):
    language, vision = towers
    task = InstructTask.of(PARTS, language.module, vision.module)
    frozen = {"language": language.params, "image": vision.params}
    batch = jax.tree.map(jnp.asarray, batch_of(pictures=True))
    trainable = jax.jit(task.init)(jax.random.key(0), frozen, batch)
    found = []
    for accumulate in (1, 2):
        tx = optax.sgd(1.0)
        state = create(jax.tree.map(jnp.copy, trainable), tx, jax.random.key(1))
        state, metrics = make_train_step(task, tx, accumulate)(state, frozen, batch)
        found.append((state.trainable, metrics))
    for a, b in zip(*(jax.tree.leaves(t) for t, _ in found), strict=True):
        assert_allclose(a, b, atol=1e-5)
    (_, one), (_, two) = found
    assert_allclose(one["loss"].total, two["loss"].total, atol=1e-5)
    assert float(two["token_loss"].examples) == 7
    assert two["picture_loss"] == two["token_loss"]
    assert "text_loss" not in two
    # Six tokens stand in the first part and one in the second: a mean of means differs.
    key, loss = jax.random.key(0), jax.jit(lambda *given: task.loss(*given)[0])
    parts = [jax.tree.map(lambda x, i=i: jnp.split(x, 2)[i], batch) for i in (0, 1)]
    means = [float(loss(trainable, frozen, part, key)) for part in parts]
    assert abs(np.mean(means) - float(one["loss"].total)) > 1e-3


@pytest.mark.slow
def test_rows_that_fill_a_batch_up_change_nothing(towers):
    language, vision = towers
    task = InstructTask.of(PARTS, language.module, vision.module)
    frozen = {"language": language.params, "image": vision.params}
    whole = batch_of(pictures=True)
    real = jax.tree.map(lambda x: x[: len(x) // 2], whole)  # a picture and its two rows
    filled = {"text": jax.tree.map(np.copy, whole["text"]), "image": dict(whole["image"])}
    for name, leaf in filled["text"].items():
        leaf[2:] = WORD if name == "image_slot" else 0
    trainable = jax.jit(task.init)(jax.random.key(0), frozen, real)
    found = []
    for batch, accumulate in ((real, 1), (filled, 1), (filled, 2)):  # in two, one is of nothing
        tx = optax.sgd(1.0)
        state = create(jax.tree.map(jnp.copy, trainable), tx, jax.random.key(1))
        placed = jax.tree.map(jnp.asarray, batch)
        state, metrics = make_train_step(task, tx, accumulate)(state, frozen, placed)
        found.append((state.trainable, metrics))
    (wanted, alone), *others = found
    assert float(alone["token_loss"].examples) == 6
    for got, metrics in others:
        # Larger batches are summed in another order.
        chex.assert_trees_all_close(got, wanted, atol=3e-6, rtol=1e-7)
        for name, value in alone.items():
            assert_allclose(metrics[name], value, rtol=1e-5)


@pytest.mark.parametrize("pictures", [True, False])
def test_exact_says_what_greedy_decoding_would(towers, pictures):
    """What `generate` says, word by word and without the modality token, is exact; else nothing."""
    language, vision = towers
    task = InstructTask.of(PARTS, language.module, vision.module)
    frozen = {"language": language.params, "image": vision.params}
    shapes = jax.eval_shape(task.init, jax.random.key(0), frozen, {})
    random = np.random.default_rng(1)  # as after training: the adapters change what is said
    trainable = jax.tree.map(
        lambda x: jnp.asarray(random.standard_normal(x.shape) * 0.3, jnp.float32), shapes
    )
    batch = jax.tree.map(jnp.asarray, batch_of(pictures))
    text = batch["text"]
    model = language.with_hook(PARTS.language)
    table = routing_table(model, trainable["language"], trainable["modality"]["embedding"])
    shown = None
    if pictures:
        shown = task.image_tokens(trainable, trainable["vision"], frozen, batch["image"])
    words = embed(model.module, model.params, text["input_ids"][:, 1:6])
    laid = np.asarray(words if shown is None else among(words, shown, text["image_slot"][:, 1:6]))
    adapters = bind(trainable["language"], table, int(pictures))
    said = np.stack(
        [g.token_ids for g in generate(model, list(laid), 3, stop_token_ids=(), adapters=adapters)]
    )
    plain = generate(language, list(laid), 3, stop_token_ids=())
    assert (said != np.stack([g.token_ids for g in plain])).any()

    exact = jax.jit(task.functions()["exact"])
    everything = np.ones((4, 3), np.float32)

    def asked(answers: np.ndarray, weights: np.ndarray) -> list[bool]:
        ids = np.concatenate([text["input_ids"][:, :6], answers], axis=1)
        own = {**text, "input_ids": ids, "labels": answers, "weights": weights}
        own = jax.tree.map(jnp.asarray, own)
        return exact(trainable, frozen, {**batch, "text": own}).tolist()

    assert asked(said, everything) == [True] * 4
    other = said.copy()
    other[np.arange(3), np.arange(3)] = (other[np.arange(3), np.arange(3)] + 1) % 50
    assert asked(other, everything) == [False] * 3 + [True]
    shorter = everything.copy()
    shorter[2, 2] = 0  # the third row's wrong token is padding now
    assert asked(other, shorter) == [False, False, True, True]


def test_text_alone_runs_no_vision_transformer(towers):
    language, vision = towers
    task = InstructTask.of(PARTS, language.module, vision.module)
    frozen = {"language": language.params, "image": vision.params}
    trainable = jax.eval_shape(task.init, jax.random.key(0), frozen, {})

    def flops(pictures: bool) -> float:
        batch = batch_of(pictures)
        program = jax.jit(task.answer_logits).lower(trainable, frozen, batch).compile()
        costs: Any = program.cost_analysis()
        return costs["flops"]

    assert flops(False) < 0.6 * flops(True)


def test_log_prob_sums_over_the_tokens_of_the_answers(towers):
    language, vision = towers
    task = InstructTask.of(PARTS, language.module, vision.module)
    frozen = {"language": language.params, "image": vision.params}
    batch = jax.tree.map(jnp.asarray, batch_of(pictures=False))
    trainable = jax.jit(task.init)(jax.random.key(0), frozen, batch)
    found = jax.jit(task.functions()["log_prob"])(trainable, frozen, batch)
    logits = np.asarray(jax.jit(task.answer_logits)(trainable, frozen, batch), np.float64)
    likely = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    wanted = [
        sum(likely[i, j, batch["text"]["labels"][i, j]] for j in range(n))
        for i, n in enumerate((3, 3, 1, 0))
    ]
    assert_allclose(found, wanted, rtol=1e-4)


def stage_with(**adapters: dict[str, Any]) -> Stage:
    """A stage whose recipe names what sits in the encoders."""
    spec = InstructSpec(adapter="none", taps=2, hidden=6)
    encoders = {role: EncoderSpec("somewhere") for role in ("language", "image")}
    train = TrainSpec(batch_size=4, select="none", cache_features=False)
    return Stage("instruct", "instruct", encoders, instruct=spec, train=train, adapters=adapters)


def test_a_recipe_names_what_sits_in_its_encoders(towers):
    language, vision = towers
    own = {"language": {"kind": "dora", "rank": 2}, "image": {"kind": "vpt", "tokens": 2}}
    task = make_instruct(stage_with(**own), language, vision)
    assert isinstance(task.parts.language, DoRA)
    assert isinstance(task.parts.vision, VPT)
    frozen = {"language": language.params, "image": vision.params}
    batch = jax.tree.map(jnp.asarray, batch_of(pictures=True))
    trainable = jax.jit(task.init)(jax.random.key(0), frozen, batch)
    assert set(trainable) == {"language", "vision", "projection"}
    gradient = jax.jit(jax.grad(lambda *given: task.loss(*given)[0]))
    found = gradient(trainable, frozen, batch, jax.random.key(0))
    assert np.abs(found["vision"]["tokens"]).max() > 1e-7
    assert np.abs(found["language"]["value"]["up"]["kernel"]).max() > 1e-7


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"language": {"kind": "full"}}, "instruct.train='full' learns the weights"),
        ({"language": {"kind": "prompt_tuning"}}, "expected 'prefix_tuning'"),
        ({"image": {"kind": "lora", "rank": 0}}, "config.adapters.image.rank"),
    ],
)
def test_what_cannot_sit_in_them_is_refused(own, message, towers):
    with pytest.raises(MmjaxError, match=message):
        make_instruct(stage_with(**own), *towers)
