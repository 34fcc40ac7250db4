"""Two real processes that find each other over the loopback interface."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from mmjax import sharding, study
from mmjax.encoders import LanguageModel, load_encoder
from mmjax.generation import score
from mmjax.report.results import Results
from mmjax.specs.recipe import resolve_recipe
from tests.run import test_instruct
from tests.run.conftest import Toy, changed
from tests.run.test_instruct import losses_of

recipe, world = test_instruct.recipe, test_instruct.world

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "launch" / "local_processes.sh"


def launch(toy: Toy, workdir: Path, tmp_path: Path) -> str:
    """Runs a recipe in two processes; what the first one says."""
    command = [str(LAUNCH), "2", "--config", str(toy.recipe), "--workdir", str(workdir)]
    log = tmp_path / "log"
    with log.open("w") as output:
        child = subprocess.Popen(
            ["bash", *command],
            env=toy.environment(PYTHON=sys.executable, TMPDIR=str(tmp_path)),
            cwd=toy.folder,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = child.wait(500)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            code = child.wait()
    assert code == 0, log.read_text()[-4000:]
    assert '"processes": "2"' in (workdir / "env.json").read_text()
    return log.read_text()


@pytest.mark.slow
def test_two_processes_train_as_one_does(toy, straight, tmp_path):
    workdir = tmp_path / "run"
    assert "recovery ratio" in launch(toy, workdir, tmp_path)
    for stage in ("base", "linear", "language"):
        together = np.array(toy.losses(workdir, stage))
        assert_allclose(together, np.array(toy.losses(straight, stage)), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("model", [1, 2])
def test_two_processes_learn_instructions_as_one_does(
    model, world, recipe, tmp_path, mesh, monkeypatch
):
    """Each with half of the rows, or each with half of the weights and LoRA beside the adapters."""
    variants = {"lora": recipe["variants"]["lora"]} if model == 2 else {}
    changes = {
        **{"variants": variants, "evals": ("vqa", "text"), "train.steps": 6},
        **{"train.eval_every": 3, "train.save_every": 3, "mesh.data": -1, "mesh.model": model},
        **{"questions.rehearsal": 16, "questions.rehearsal_share": 0.3},
        "questions.rehearsal_length": 15,
    }
    config = changed(recipe, changes)
    (tmp_path / "recipe.py").write_text(
        "from ml_collections import ConfigDict\n\n\ndef get_config():\n"
        f"    return ConfigDict({config!r})\n"
    )
    launch(Toy(tmp_path, config), tmp_path / "two", tmp_path)
    monkeypatch.setenv("MMJAX_CACHE", str(tmp_path / "alone"))
    monkeypatch.setattr(sharding, "make_mesh", lambda *_: mesh(2 // model, model))
    study.run(resolve_recipe(config), config, tmp_path / "one", "test")
    for stage in (*variants, "instruct"):
        one, two = (losses_of(tmp_path / run / "seed_0" / stage) for run in ("one", "two"))
        assert len(one) == 6
        assert_allclose(two, one, rtol=1e-5)
    one, two = (Results.load(tmp_path / run / "results.json").systems for run in ("one", "two"))
    assert {"vqa_acc", "text_perplexity"} <= set(one["adapted"])
    for system, metrics in one.items():
        for metric, values in metrics.items():
            assert_allclose(two[system][metric], values, rtol=1e-4)


CHILD = """
import shutil, sys
from pathlib import Path
import numpy as np
from mmjax import assets, sharding
from mmjax.processes import starting
starting.join_processes()
from mmjax.data import feature_cache
from mmjax.tasks.instruct import rehearsal
from mmjax.encoders import load_encoder
from mmjax.generation import score
model, bert = (load_encoder(folder, mesh=sharding.make_mesh()) for folder in sys.argv[1:3])
words = [f"w{i}" for i in range(4, 24)]
request = feature_cache.Request("text", (bert.outputs_fingerprint,), words, words, "pooled")
for name in ("first", "again"):
    texts = rehearsal.own_texts(model, 5, 4, 0)
    table = feature_cache.load_features(assets.cache_dir() / "features", request, lambda: bert)
    rest = [[t] for t in texts[:, 2:].tolist()]
    said = [one.token_log_probs for (one,) in score(model, texts[:, :2].tolist(), rest)]
    out = assets.cache_dir().with_name(f"{sys.argv[3]}_{name}")
    np.savez(out, texts=texts, rows=table.values, log_probs=np.stack(said))
    if sys.argv[3] == "1":  # this one's disk is a new one
        shutil.rmtree(assets.cache_dir())
"""


@pytest.mark.slow
def test_processes_whose_caches_differ_agree_on_what_is_missing(write_folder, tmp_path):
    models = [str(write_folder(tmp_path / m, m)) for m in ("llama_tiny", "bert_tiny")]
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    children = []
    for number in ("0", "1"):
        settings = {
            **{"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "JAX_NUM_PROCESSES": "2"},
            **{"JAX_COORDINATOR_ADDRESS": address, "JAX_PROCESS_ID": number},
            "MMJAX_CACHE": str(tmp_path / f"cache_{number}"),
        }
        children.append(
            subprocess.Popen(
                [sys.executable, "-c", CHILD, *models, number],
                env=os.environ | settings,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    try:
        said = [child.communicate(timeout=600)[1] for child in children]
    finally:
        for child in children:
            child.kill()
    assert [child.returncode for child in children] == [0, 0], "\n".join(said)
    found = [np.load(tmp_path / f"{n}_{t}.npz") for n in "01" for t in ("first", "again")]
    assert found[0]["texts"].shape == (5, 4)
    alone = load_encoder(models[0])
    assert isinstance(alone, LanguageModel)
    texts = found[0]["texts"].tolist()
    scored = score(alone, [t[:2] for t in texts], [[t[2:]] for t in texts])
    for one in found:
        np.testing.assert_array_equal(one["texts"], texts)
        assert_allclose(one["rows"], found[0]["rows"], atol=1e-6)
        log_probs = np.stack([answer.token_log_probs for (answer,) in scored])
        assert_allclose(one["log_probs"], log_probs, atol=1e-5)
