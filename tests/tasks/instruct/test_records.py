"""instruct on records with two models joined: pictures that are read once, and what is asked."""

import json
from typing import Any

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose

from mmjax.tasks.instruct.assembly import assemble_instruct
from tests.tasks.instruct.llava_world import config, library_of, runs_of, write_world


@pytest.fixture(scope="module")
def world(tmp_path_factory, write_folder) -> Any:
    folder = write_world(tmp_path_factory.mktemp("world"), write_folder)
    for name in ("llama_tiny", "clip_tiny"):
        write_folder(folder / name, name)
    asked = folder / "asked.jsonl"
    rows = [json.loads(line) for line in (folder / "captions.jsonl").read_text().splitlines()]
    # Two questions about each of four pictures, and three about none.
    images = [*([f"{i}.png"] for i in range(3) for _ in range(2)), [], [], [], ["3.png"], ["3.png"]]
    rows = [{**row, "images": of} for row, of in zip(rows, images, strict=False)]
    asked.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def joined(world: Any, **questions: Any) -> dict[str, Any]:
    """A recipe of a language model and a vision transformer."""
    recipe = config(world, taps=2, hidden=4, visual=False)
    recipe["encoders"] = {
        role: {"source": str(world / name)}
        for role, name in (("language", "llama_tiny"), ("image", "clip_tiny"))
    }
    recipe["questions"] |= {"max_new_tokens": 2, **questions}
    return recipe


def test_class_tokens_that_are_computed_once_are_the_same(world, mesh, tmp_path, monkeypatch):
    monkeypatch.setenv("MMJAX_CACHE", str(tmp_path / "cache"))
    found: dict[bool, list[Any]] = {True: [], False: []}
    for cached, tokens in found.items():
        recipe = joined(world, asked=f"records:{world / 'asked.jsonl'}")
        recipe["train"]["cache_features"] = cached
        (run,) = runs_of(recipe, tmp_path / str(cached))
        assembly = assemble_instruct(run, library_of(mesh(1)))
        task, data = assembly.task, assembly.data
        trainable = task.init(jax.random.key(0), assembly.frozen, {})
        # Without the vision transformer's weights, or as it is.
        frozen = {**assembly.frozen, "image": {}} if cached else assembly.frozen
        see = jax.jit(task.image_tokens)
        asked, blank = (data.test[name].conversations for name in ("adapted", "blank"))
        for rows in (data.train, asked, blank):
            groups = next(g for g in rows.plan(2, None) if rows.images[g[0][0]] >= 0)
            inputs = rows.batch(groups, 2)["image"]
            assert set(inputs) == {"class_tokens" if cached else "pixel_values"}
            tokens.append(see(trainable, None, frozen, inputs))
    for one, other in zip(*found.values(), strict=True):
        assert_allclose(one, other, atol=1e-5)
    shown, white = found[True][1:]
    assert np.ptp(white, axis=0).max() == 0  # one picture, always the same
    assert np.abs(shown - white).max() > 1e-3


def test_so_many_are_asked_with_all_questions_of_a_picture(world, mesh, tmp_path):
    recipe = joined(world, asked=f"records:{world / 'asked.jsonl'}", asked_limit=6)
    (run,) = runs_of(recipe, tmp_path)
    asked: Any = assemble_instruct(run, library_of(mesh(1))).data.test["adapted"]
    assert len(asked.truths) == len(asked.conversations) == 6
    pictures = asked.conversations.images.tolist()
    # Pictures 0 and 1 with both questions, then texts alone, each a group of its own.
    assert pictures == [0, 0, 1, 1, -1, -1]
    rows = [json.loads(line) for line in (world / "asked.jsonl").read_text().splitlines()]
    truths = [row["turns"][-1]["text"] for row in rows]
    assert list(asked.truths) == [truths[i] for i in (0, 1, 2, 3, 6, 8)]
