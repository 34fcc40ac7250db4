"""MaPLe over a tiny CLIP: what learns, what a tower then reads, and what is refused."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax import sharding, trees
from mmjax.adapters.maple import MaPLe
from mmjax.adapters.prompts import InTowerPrompts
from mmjax.data.library import Library
from mmjax.encoders.output import ADAPTERS
from mmjax.errors import MmjaxError
from mmjax.specs.data import PairsSpec
from mmjax.specs.prompts import PromptMethod, PromptSpec
from mmjax.specs.spec import EncoderSpec, Stage, TrainSpec
from mmjax.tasks.prompts.coupled import couple
from mmjax.tasks.prompts.data import frozen_of, know, task_of
from mmjax.tasks.prompts.joint import joint_on
from tests.adapters.programs import dots
from tests.run.test_language_clip import write_clip_tokenizer
from tests.tasks.steps import run

B, VIEWS, SIDE = 8, 2, 20
NAMES = ["w9", "w8 w7", "w5 w6 w4"]
CONTEXT = "w20 w21 w22 w23"  # as "a photo of a"


@pytest.fixture(scope="module")
def clip(tmp_path_factory, write_folder):
    folder = write_folder(tmp_path_factory.mktemp("maple") / "clip", "clip_tiny")
    write_clip_tokenizer(folder / "tokenizer.json")
    return str(folder)


@pytest.fixture(scope="module")
def library():
    return Library(sharding.make_mesh(devices=jax.devices()[:1]), ("en", "en"))


def stage_of(clip: str, method: PromptMethod = "maple", adapters: Any = None, **prompts: Any):
    settings = {"general": 2, "context": CONTEXT, "ending": "w30", "instance": 0, **prompts}
    return Stage(
        "prompts",
        "prompts",
        {role: EncoderSpec(clip, tower=role) for role in ("image", "text")},
        PairsSpec("none", views=("mirror", "plain")),
        prompts=PromptSpec(method, **settings),
        adapters=adapters or {},
        train=TrainSpec(batch_size=B, select="none"),
    )


@dataclasses.dataclass(frozen=True)
class Made:
    """A stage put together without any data, and what it trains before the first step."""

    task: Any
    trainable: Any
    frozen: Any
    batch: Any

    def score(self, trainable: Any, name: str = "score") -> Any:
        """Logits of the batch's pictures."""
        return jax.jit(self.task.functions()[name])(trainable, self.frozen, self.batch["image"])

    def class_features(self, trainable: Any) -> Any:
        """The classes' vectors, whatever the pictures."""
        method = self.task.classifier
        prompts = method.prompts if isinstance(method, MaPLe) else method

        def read(trainable: Any, frozen: Any) -> Any:
            frozen = {**frozen, ADAPTERS: self.task.coupled(trainable, frozen)}
            return prompts.class_features(trainable, frozen)

        return jax.jit(read)(trainable, self.frozen)


@pytest.fixture(scope="module")
def make(clip, library):
    """Returns `make(method, **prompts)`."""

    @functools.cache
    def build(method: PromptMethod = "maple", **prompts: Any) -> Made:
        stage = stage_of(clip, method, **prompts)
        joint = joint_on(stage, None, {}, None, library)
        known = know(stage, joint, NAMES, library, 0, training=True)
        frozen, task = frozen_of(stage, joint, known, library), task_of(stage, joint, library)
        pixels = np.random.default_rng(0).normal(size=(B, VIEWS, SIDE, SIDE, 3))
        image = {"pixel_values": jnp.asarray(pixels, jnp.float32)}
        image |= {"row": jnp.arange(B, dtype=jnp.int32)}
        label = {"label": jnp.arange(B, dtype=jnp.int32) % len(NAMES)}
        batch = {"image": image, "label": label}
        if method == "maple":
            trainable = jax.jit(task.init)(jax.random.key(0), frozen, batch)
        else:
            trainable = {"general": known["context"]}
        return Made(task, trainable, frozen, batch)

    return build


def test_as_many_parameters_as_the_paper_has():
    text = InTowerPrompts(lambda *_: jnp.zeros((1, 512)), 2)
    method = MaPLe(text, "text", (12, 12), 9, 768, 1e-5)  # on CLIP's ViT-B/16
    known = {"context": jnp.zeros((2, 512)), "embeddings": jnp.zeros((1, 9, 512))}
    trainable = jax.eval_shape(lambda key: method.init(key, known, {}), jax.random.key(0))
    shapes = {path: leaf.shape for path, leaf in trees.named_leaves(trainable)}
    assert shapes == {
        "general": (2, 512),
        "deep": (8, 2, 512),
        "coupling/kernel": (9, 512, 768),
        "coupling/bias": (9, 768),
    }
    count = trees.count(trainable)
    assert count == 2 * 512 + 8 * 2 * 512 + 9 * (512 * 768 + 768)
    assert count // 10_000 == 355  # table 4 of the paper: 3.55 M


def test_deeper_maps_begin_alike_and_the_first_one_apart():
    method = MaPLe(InTowerPrompts(lambda *_: jnp.zeros((1, 4)), 2), "text", (4, 4), 4, 3, None)
    known = {"context": jnp.zeros((2, 4)), "embeddings": jnp.zeros((1, 9, 4))}
    for part in method.init(jax.random.key(0), known, {})["coupling"].values():
        np.testing.assert_array_equal(part[1:], np.broadcast_to(part[1], part[1:].shape))
        assert not np.isclose(part[0], part[1]).any()
        assert np.abs(part).max() <= 4**-0.5


def test_the_first_words_of_the_context_learn_and_the_others_stay(make):
    known = make().frozen["known"]
    np.testing.assert_array_equal(known["context"], np.asarray(table_of_words(make()))[[20, 21]])
    rows = [
        [48, -1, -1, 22, 23, 9, 30, 49],
        [48, -1, -1, 22, 23, 8, 7, 30, 49],
        [48, -1, -1, 22, 23, 5, 6, 4, 30, 49],
    ]
    for c, row in enumerate(rows):
        words = np.where(known["slots"][c] < 0, known["ids"][c], -1)
        assert words[known["mask"][c] == 1].tolist() == row


def table_of_words(made: Made) -> Any:
    return made.frozen["text"]["token_embeddings"]["embedding"]


def test_what_is_maples_learns_and_nothing_else(make):
    made = make()
    assert set(made.trainable) == {"general", "deep", "coupling"}
    before = trees.fingerprint(made.frozen)
    zero_shot = made.score(made.trainable, "score_base")
    state, losses = run(made.task, made.trainable, made.frozen, made.batch, 8)
    assert losses[-1] < losses[0]
    assert trees.fingerprint(made.frozen) == before
    old = dict(trees.named_leaves(made.trainable))
    for path, leaf in trees.named_leaves(state.trainable):
        # Every depth of every part: no layer's tokens are without a gradient.
        rows = (np.asarray(leaf) != np.asarray(old[path])).reshape(len(leaf), -1)
        assert rows.any(axis=1).all(), path
    np.testing.assert_array_equal(made.score(state.trainable, "score_base"), zero_shot)


def test_no_gradient_of_a_frozen_kernel_is_computed(make):
    made = make()
    gradient = jax.grad(made.task.loss, has_aux=True)
    program = jax.make_jaxpr(gradient)(made.trainable, made.frozen, made.batch, jax.random.key(0))
    towers = {role: made.frozen[role]["layers"] for role in ("text", "image")}
    kernels = {x.shape[-2:] for p, x in trees.named_leaves(towers) if "kernel" in p}
    own = {x.shape[-2:] for x in jax.tree.leaves(made.trainable)}
    known = {s[::-1] for s in kernels if s not in own and s[::-1] not in own}
    assert known
    assert not dots(program.jaxpr) & known


def test_in_the_first_layer_alone_the_texts_are_those_of_coop(make):
    # CoOp has a context of as many words as tokens: no word stays.
    words = {"context": "w20 w21"}
    shallow, deep, coop = make(depth=1, **words), make(**words), make("coop", **words)
    assert set(shallow.trainable) == {"general", "coupling"}
    texts = coop.class_features(coop.trainable)
    np.testing.assert_array_equal(shallow.class_features(shallow.trainable), texts)
    assert np.abs(deep.class_features(deep.trainable) - texts).max() > 1e-3
    # Deeper than the towers is as deep as they are.
    assert deep.task.classifier.depth == 2
    np.testing.assert_array_equal(
        make(depth=2, **words).class_features(deep.trainable), deep.class_features(deep.trainable)
    )


def test_pictures_are_read_with_the_tokens_that_texts_have_coupled(make):
    made = make()
    moved = {**made.trainable, "general": made.trainable["general"] + 0.5}

    def features(trainable: Any) -> Any:
        frozen = {**made.frozen, ADAPTERS: made.task.coupled(trainable, made.frozen)}
        return jax.jit(made.task.pictures)(frozen, made.batch["image"])["features"]

    plain = jax.jit(made.task.pictures)(made.frozen, made.batch["image"])["features"]
    seen = [features(trainable) for trainable in (made.trainable, moved)]
    assert np.abs(seen[0] - plain).max() > 1e-3
    assert np.abs(seen[0] - seen[1]).max() > 1e-3
    # Without the maps a picture does not know what the text's tokens are.
    still = jax.tree.map(jnp.zeros_like, made.trainable["coupling"])
    still = [features({**t, "coupling": still}) for t in (made.trainable, moved)]
    np.testing.assert_array_equal(*still)


def test_new_classes_are_read_with_the_learned_tokens(make, clip, library):
    made = make()
    state, _ = run(made.task, made.trainable, made.frozen, made.batch, 3)
    stage = stage_of(clip)
    joint = joint_on(stage, None, {}, None, library)
    names = ["w40", "w41 w42", *NAMES]
    known = know(stage, joint, names, library, 0)
    assert "context" not in known
    frozen = {**made.frozen, "new": {**known, "untrained": jnp.zeros(())}}
    score = jax.jit(made.task.functions()["score_new"])
    logits = score(state.trainable, frozen, made.batch["image"])
    assert logits.shape == (B, 5)
    # Among others a class that was learned is what it was.
    np.testing.assert_allclose(logits[:, 2:], made.score(state.trainable), rtol=2e-5, atol=2e-5)


def test_chunks_of_prompts_give_the_same_step(make):
    whole, parts = make(), make(chunk=2)
    first, second = (run(m.task, m.trainable, m.frozen, m.batch, 2)[1] for m in (whole, parts))
    np.testing.assert_allclose(first, second, rtol=1e-5)


def test_a_step_does_not_depend_on_the_mesh(make, mesh):
    made, many = make(), mesh(8)
    _, alone = run(made.task, made.trainable, made.frozen, made.batch, 3)
    trainable, frozen, batch = jax.device_get((made.trainable, made.frozen, made.batch))
    here, fixed = (sharding.place(x, many) for x in (trainable, frozen))
    _, together = run(made.task, here, fixed, sharding.place_batch(batch, many), 3)
    np.testing.assert_allclose(together, alone, rtol=1e-5)


@pytest.mark.parametrize("role", ["image", "text"])
def test_adapters_beside_it_are_refused(role, clip):
    with pytest.raises(MmjaxError, match=rf"adapters\.{role} is 'lora'; .*tokens of its own in bo"):
        stage_of(clip, adapters={role: {"kind": "lora", "rank": 2}})


def test_settings_that_make_no_sense_have_a_sentence(clip, library):
    with pytest.raises(MmjaxError, match=r"prompts\.general is 0; expected at least 1"):
        stage_of(clip, general=0)
    with pytest.raises(MmjaxError, match=r"prompts\.depth is 0; expected at least 1"):
        stage_of(clip, depth=0)
    short = stage_of(clip, context="w20")
    joint = joint_on(short, None, {}, None, library)
    with pytest.raises(MmjaxError, match=r"gives 1 vectors .*there are 2 General tokens"):
        know(short, joint, NAMES, library, 0, training=True)


def test_a_tower_without_layers_is_refused(clip, library, golden, tmp_path):
    archive = tmp_path / "RN.pt"
    archive.write_bytes(golden("clip_resnet_tiny")["archive"].tobytes())
    write_clip_tokenizer(tmp_path / "tokenizer.json")
    stage = stage_of(clip)
    encoders = {**stage.encoders, "image": EncoderSpec(str(archive), tower="image")}
    stage = dataclasses.replace(stage, encoders=encoders)
    text = InTowerPrompts(lambda *_: jnp.zeros((1, 4)), 2)
    message = r"method is 'maple', whose tokens .* but config\.encoders\.image .* has none; take"
    with pytest.raises(MmjaxError, match=message):
        couple(stage, library, text)
