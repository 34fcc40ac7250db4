"""A trained `instruct` adapter in other processes: on other meshes, after kill -9, in the chat."""

import ast
import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import mmjax
from mmjax.errors import MmjaxError
from mmjax.processes import starting
from mmjax.tasks.instruct.answering import Answering
from tests.run import conftest, test_instruct
from tests.run.test_instruct import ASKED

recipe, world = test_instruct.recipe, test_instruct.world
WORDS = [f"w{i}" for i in range(4, 48)]
QUESTIONS = [ASKED[0], ASKED[1], "w11"]


@dataclasses.dataclass(frozen=True)
class Toy(conftest.Toy):
    """A child of one device that trains, or goes on to train, and may then answer into a file."""

    def command(self, workdir: Path, *arguments: str) -> list[str]:
        return [sys.executable, __file__, str(self.recipe), str(workdir), *arguments]

    @property
    def pictures(self) -> list[Path]:
        return [self.folder / "vqa" / "test" / "images" / f"{i}.png" for i in range(3)]


def train(recipe: Path, workdir: Path, *then: str) -> None:
    """What the child does."""
    from mmjax import assets, study
    from mmjax.specs.recipe import resolve_recipe

    starting.set_up(0, None, assets.cache_dir() / "compiled")
    config = ast.literal_eval(recipe.read_text())
    study.run(resolve_recipe(config), config, workdir, "test")
    if then == ("answer",):
        np.savez(workdir / "answers.npz", **answers(workdir, recipe.parent, None))


def answers(workdir: Path, world: Path, mesh: Any) -> dict[str, Any]:
    """Texts, and the next word's log-probabilities: with pictures and without."""
    adapted = mmjax.load_adapter(workdir, mesh=mesh, kind=mmjax.Answering)
    found = {}
    for name, images in (("image", Toy(world, {}).pictures), ("text", None)):
        said = adapted.answer(QUESTIONS, images, max_new_tokens=4)
        found[f"{name}_said"] = [one.text for one in said]
        # Of nearly the whole vocabulary: logits but for one number a question.
        scored = adapted.score(QUESTIONS, [WORDS] * 3, images)
        found[f"{name}_log_probs"] = [[one.log_prob for one in row] for row in scored]
    return found


@pytest.fixture(scope="module")
def toy(world, recipe) -> Toy:
    train = {"steps": 30, "eval_every": 30, "save_every": 5}
    config = recipe | {"variants": {}, "mesh": {"data": -1}, "train": recipe["train"] | train}
    made = Toy(world, config)
    made.recipe.write_text(repr(config))
    return made


@pytest.fixture(scope="module")
def straight(toy) -> Path:
    """The run of one device that nobody disturbed."""
    workdir = toy.folder / "straight"
    done = toy.run(workdir, "answer")
    assert done.returncode == 0, done.stderr
    return workdir


@pytest.fixture(scope="module")
def adapted(straight) -> Answering:
    one = jax.make_mesh((1, 1), ("data", "model"), devices=jax.devices()[:1])
    return mmjax.load_adapter(straight, mesh=one, kind=mmjax.Answering)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(4, 2), (8, 1)])
def test_another_process_on_another_mesh_answers_the_same(shape, straight, toy, mesh):
    with np.load(straight / "answers.npz") as file:
        first = dict(file)
    here = answers(straight, toy.folder, mesh(*shape))
    for name in ("image", "text"):
        assert here[f"{name}_said"] == first[f"{name}_said"].tolist()
        assert_allclose(here[f"{name}_log_probs"], first[f"{name}_log_probs"], atol=1e-5)
    assert np.ptp(first["image_log_probs"], axis=1).min() > 0.1  # or all would agree on nothing
    assert np.abs(first["image_log_probs"] - first["text_log_probs"]).max() > 0.01


@pytest.mark.slow
def test_killed_and_started_again_it_ends_with_the_same_bits(toy, straight, tmp_path):
    workdir, stage = tmp_path / "run", "seed_0/instruct"

    def reached() -> bool:
        metrics = workdir / stage / "metrics.jsonl"
        return metrics.is_file() and metrics.read_bytes().count(b"\n") >= 5

    assert toy.kill_when(reached, workdir)
    assert not (workdir / "results.json").exists()
    done = toy.run(workdir)
    assert done.returncode == 0, done.stderr
    assert toy.losses(workdir, "instruct") == toy.losses(straight, "instruct")
    one, other = (toy.card(f, "instruct")["trainable"] for f in (workdir, straight))
    assert one == other  # fingerprints of all bytes


@pytest.mark.slow
def test_what_was_said_before_is_read_again(adapted, toy, monkeypatch):
    import mmjax.tasks.instruct.answering

    read, encode = [], mmjax.tasks.instruct.answering.encode
    monkeypatch.setattr(
        mmjax.tasks.instruct.answering,
        "encode",
        lambda said, *rest: (read.append(said), encode(said, *rest))[1],
    )
    picture = toy.pictures[:1]
    (alone,) = adapted.answer([ASKED[0]], picture, 2, history=[[]])
    (after,) = adapted.answer([ASKED[0]], picture, 2, history=[[("w9", "w25 w26 ")]])
    (never,) = adapted.answer([ASKED[0]], picture, 2)
    assert_array_equal(alone.log_probs, never.log_probs)
    assert np.abs(after.log_probs[0] - alone.log_probs[0]) > 1e-4
    turns = [(turn.text, turn.learn) for turn in read[1].turns]
    asked = (f"\nQuestion: {ASKED[0]}\nResponse:", False)  # on a line of its own
    assert turns[:3] == [("Question: w9\nResponse:", False), (" w25 w26", True), asked]
    with pytest.raises(MmjaxError, match="2 histories for 1 questions"):
        adapted.answer([ASKED[0]], picture, history=[[], []])
    with pytest.raises(MmjaxError, match="an empty answer"):
        adapted.answer([ASKED[0]], picture, history=[[("w9", " ")]])


def child(toy: Toy, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mmjax.chat", *arguments]
    return subprocess.run(
        command,
        cwd=toy.folder,
        env=toy.environment(),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=400,
    )


@pytest.mark.slow
def test_the_chat_is_a_command(straight, toy, adapted):
    """Line by line from stdin: answers alone on stdout, all else on stderr."""
    lines = [ASKED[0], f"/image {toy.pictures[1]}", ASKED[0], "/nothing", "/image lacks.png"]
    first = ("--adapter", str(straight), "--image", str(toy.pictures[0]), "--max-new-tokens", "4")
    done = child(toy, *first, stdin="\n".join([*lines, "", ASKED[1], "/exit", ASKED[0]]))
    assert done.returncode == 0, done.stderr
    said = adapted.answer(
        [ASKED[0], ASKED[0], ASKED[1]], [toy.pictures[i] for i in (0, 1, 1)], max_new_tokens=4
    )
    expected = [one.text.strip() for one in said if one.text.strip()]
    assert expected
    assert done.stdout.splitlines() == expected
    assert "there is no command /nothing" in done.stderr
    assert "lacks.png) cannot be read" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_one_question(say, straight, toy, adapted, monkeypatch):
    monkeypatch.setattr(Answering, "load", lambda *_: adapted)
    options = ("--adapter", str(straight), "--image", str(toy.pictures[1]), "--question")
    (said,) = adapted.answer([ASKED[1]], toy.pictures[1:2], max_new_tokens=4)
    code, out, err = say(*options, ASKED[1], "--max-new-tokens", "4")
    assert (code, out.strip()) == (0, said.text.strip())
    assert err.startswith("loading")
    code, out, err = say(*options, "w5 " * 80)
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith("error: question 0 takes ")


@pytest.mark.slow
def test_chats_that_cannot_start(say, straight, toy, tmp_path):
    adapter = ("--adapter", str(straight))
    (tmp_path / "torn.png").write_bytes(toy.pictures[0].read_bytes()[:60])
    for arguments, message in [
        (("--adapter", str(tmp_path)), "no adapter at"),
        ((*adapter, "--image", str(tmp_path / "torn.png")), "torn.png) cannot be read"),
    ]:
        code, out, err = say(*arguments)
        assert (code, out) == (2, "")
        assert message in err
        assert err.splitlines()[-1].startswith("error: ")


if __name__ == "__main__":
    train(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
