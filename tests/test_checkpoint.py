import json
import logging
import shutil
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax import checkpoint, sharding, trees
from mmjax.data.pipeline import Choices, Phase, train_batches
from mmjax.data.tables import table_of
from mmjax.errors import MmjaxError
from mmjax.optim import make_optimizer
from mmjax.runs import adapter_files
from mmjax.specs.spec import OptimSpec
from mmjax.state import TrainState, create

IDENTITY = {"encoders": {"text": {"source": "asset:a", "fingerprint": "1" * 64}}}


def make_state(mesh, seed=0):
    key = jax.random.key(seed)
    trainable = {"adapter": {"kernel": jax.random.normal(key, (256, 256)), "bias": jnp.ones(256)}}
    tx, _ = make_optimizer(OptimSpec(), trainable, 10)
    state = create(trainable, tx, key)
    _, opt_state = tx.update(jax.tree.map(jnp.sin, trainable), state.opt_state, trainable)
    return sharding.place(state._replace(opt_state=opt_state), mesh)


def make_batches():
    table = table_of([np.full(2, i, np.float32) for i in range(10)])
    return train_batches([Phase(0, {"x": Choices.of(table, [[i] for i in range(10)])})], 40, 2, 0)


@pytest.fixture
def saved(tmp_path, mesh):
    """Two checkpoints, at steps 3 and 5, and the batch that follows the second."""
    state, batches = make_state(mesh(1)), make_batches()
    checkpoints = checkpoint.Checkpoints(tmp_path / "c", 2, IDENTITY)
    for step in (3, 5):
        while batches.get_state()["next_index"] < step:
            next(batches)
        checkpoints.save(state._replace(step=jnp.int32(step)), batches, {"best": step / 10})
        # The save must have taken the position of now, not of when it gets round to writing.
        following = next(batches) if step == 5 else None
    checkpoints.close()
    return tmp_path / "c", state, following


def restore(folder, mesh, identity=IDENTITY, allow_other=False, seed=9):
    checkpoints = checkpoint.Checkpoints(folder, 2, identity)
    batches = make_batches()
    found = checkpoints.restore(make_state(mesh, seed), batches, allow_other)
    checkpoints.close()
    return found, batches


@pytest.mark.parametrize("devices", [1, 8])
def test_state_iterator_and_progress_come_back_bit_equal_on_any_mesh(saved, mesh, devices, caplog):
    folder, state, following = saved
    found, batches = restore(folder, mesh(devices))
    # A sound checkpoint is taken without a word.
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert found is not None
    restored, progress = found
    assert int(restored.step) == 5
    assert progress == {"best": 0.5}
    assert trees.fingerprint(restored.trainable) == trees.fingerprint(state.trainable)
    assert trees.fingerprint(restored.opt_state) == trees.fingerprint(state.opt_state)
    assert type(restored.opt_state) is type(state.opt_state)
    np.testing.assert_array_equal(restored.key_data, state.key_data)
    np.testing.assert_array_equal(next(batches)["x"]["features"], following["x"]["features"])


def test_the_folder_holds_adapter_optimizer_iterator_and_card_only(saved):
    folder, state, _ = saved
    size = sum(f.stat().st_size for f in (folder / "5").rglob("*") if f.is_file())
    trainable = trees.nbytes(state.trainable)
    # Weights and Adam's two moments, compressed a little, and a few small files.
    assert 2.5 * trainable < size < 3.2 * trainable
    assert {p.name for p in (folder / "5").iterdir() if p.is_dir()} == {"state", "data"}


def damage(folder, how):
    largest = max((f for f in folder.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
    if how == "cut":
        largest.write_bytes(largest.read_bytes()[:1000])
    elif how == "flipped":
        content = bytearray(largest.read_bytes())
        content[len(content) // 2 : len(content) // 2 + 64] = bytes(64)
        largest.write_bytes(content)
    else:
        shutil.rmtree(folder / "state")


@pytest.mark.parametrize("how", ["cut", "flipped", "state removed"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(saved, mesh, how, caplog):
    folder, _, _ = saved
    damage(folder / "5", how)
    with caplog.at_level(logging.WARNING, "mmjax"):
        found, batches = restore(folder, mesh(1))
    assert found is not None
    assert int(found[0].step) == 3
    assert batches.get_state()["next_index"] == 3
    assert f"checkpoint {folder / '5'} is damaged" in caplog.text


def edit(folder, old, new):
    """Replaces a text in whichever file of a checkpoint holds it."""
    (path,) = (f for f in folder.rglob("*") if f.is_file() and old.encode() in f.read_bytes())
    path.write_bytes(path.read_bytes().replace(old.encode(), new.encode(), 1))


@pytest.mark.parametrize(
    ("old", "new"),
    [('"best": 0.5', '"best": 0.9'), ('"next_index": 5', '"next_index": 7'), ("1" * 64, "2" * 64)],
    ids=["progress", "position of the data", "identity"],
)
def test_an_edited_fact_is_damage_too(saved, mesh, old, new, caplog):
    folder, _, _ = saved
    edit(folder / "5", old, new)
    found, batches = restore(folder, mesh(1))
    assert found is not None
    assert (int(found[0].step), found[1]) == (3, {"best": 0.3})
    assert batches.get_state()["next_index"] == 3
    assert f"checkpoint {folder / '5'} is damaged" in caplog.text


def test_the_step_and_the_key_belong_to_what_was_saved(saved, mesh, monkeypatch, caplog):
    folder, _, _ = saved

    def with_another_key(step, trainable, opt_state, key_data):
        return TrainState(step, trainable, opt_state, key_data + 1)

    monkeypatch.setattr(checkpoint, "TrainState", with_another_key)
    found, _ = restore(folder, mesh(1))
    assert found is None
    assert "its bytes are not those that were saved" in caplog.text


def test_a_checkpoint_of_an_earlier_version_is_taken(saved, mesh):
    folder, state, _ = saved
    (path,) = (f for f in (folder / "5").rglob("*") if f.is_file() and b'"facts"' in f.read_bytes())
    content = json.loads(path.read_bytes())
    custom = next(v for v in content.values() if isinstance(v, dict) and "facts" in v)
    del custom["facts"]
    custom["fingerprint"] = trees.fingerprint((state.trainable, state.opt_state))
    path.write_text(json.dumps(content))
    found, batches = restore(folder, mesh(1))
    assert found is not None
    assert int(found[0].step) == 5
    assert batches.get_state()["next_index"] == 5


def test_a_checkpoint_that_does_not_go_with_the_rest_gives_way_to_the_one_before(saved, mesh):
    folder, _, _ = saved
    checkpoints = checkpoint.Checkpoints(folder, 2, IDENTITY)
    state, batches = make_state(mesh(1)), make_batches()

    def misfit(step, progress):
        return "the metrics are another's" if progress["best"] > 0.4 else None

    found = checkpoints.restore(state, batches, misfit=misfit)
    assert found is not None
    assert int(found[0].step) == 3
    with pytest.raises(MmjaxError, match=r"^all is gone, and no checkpoint in .* is from before"):
        checkpoints.restore(state, make_batches(), misfit=lambda step, progress: "all is gone")
    checkpoints.close()


def test_no_whole_checkpoint_starts_anew(saved, mesh):
    folder, _, _ = saved
    for step in ("3", "5"):
        damage(folder / step, "state removed")
    found, batches = restore(folder, mesh(1))
    assert found is None
    assert batches.get_state()["next_index"] == 0


def test_other_encoders_are_refused_by_name_and_can_be_accepted(saved, mesh, caplog):
    folder, _, _ = saved
    other = {"encoders": {"text": {"source": "asset:b", "fingerprint": "2" * 64}}}
    with pytest.raises(
        MmjaxError, match=r"text encoder asset:a \(1{12}\), not on asset:b \(2{12}\)"
    ):
        restore(folder, mesh(1), other)
    found, _ = restore(folder, mesh(1), other, allow_other=True)
    assert found is not None


def test_a_half_written_save_is_removed(saved, mesh):
    folder, _, _ = saved
    torn = folder / "7.orbax-checkpoint-tmp"
    shutil.copytree(folder / "5", torn)
    found, _ = restore(folder, mesh(1))
    assert found is not None
    assert int(found[0].step) == 5
    assert not torn.exists()


def test_a_clock_that_jumps_in_a_save_harms_none(mesh, tmp_path, monkeypatch):
    state, batches = make_state(mesh(1)), make_batches()
    checkpoints = checkpoint.Checkpoints(tmp_path / "c", 2, IDENTITY)
    real, jump = time.time, 0.0
    monkeypatch.setattr(time, "time", lambda: real() + jump)
    for step in range(1, 5):
        next(batches)
        checkpoints.save(state._replace(step=jnp.int32(step)), batches, {})
        jump = 86400.0 * step * (-1) ** step  # while that save is under way
    checkpoints.close()
    found, _ = restore(tmp_path / "c", mesh(1))
    assert found is not None
    assert int(found[0].step) == 4


ADAPTER = {"adapter": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}}


@pytest.mark.parametrize("exported", [False, True])
def test_an_adapter_comes_back_with_its_card(tmp_path, exported, whole_card):
    adapter_files.save_adapter(tmp_path, ADAPTER, whole_card())
    params, card = adapter_files.load_adapter_params(tmp_path)
    if exported:
        adapter_files.export_adapter(tmp_path / "out", params, card)
        params, card = adapter_files.load_adapter_params(tmp_path / "out")
    np.testing.assert_array_equal(params["adapter"]["kernel"], ADAPTER["adapter"]["kernel"])
    assert card["trainable"]["count"] == 6


def test_a_better_adapter_replaces_the_old_one_whole(tmp_path, whole_card):
    adapter_files.save_adapter(tmp_path, ADAPTER, whole_card())
    better = jax.tree.map(lambda x: x + 1, ADAPTER)
    adapter_files.save_adapter(tmp_path, better, whole_card(step=8))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter_card.json", "params-000008"]
    params, card = adapter_files.load_adapter_params(tmp_path)
    assert card["step"] == 8
    assert params["adapter"]["kernel"][0, 0] == 1


def test_adapters_that_are_missing_torn_or_swapped_are_refused(tmp_path, whole_card):
    with pytest.raises(MmjaxError, match=r"no adapter at .*adapter_card.json is missing"):
        adapter_files.load_adapter_params(tmp_path)
    adapter_files.save_adapter(tmp_path, ADAPTER, whole_card())
    card = json.loads((tmp_path / "adapter_card.json").read_text())
    (tmp_path / "adapter_card.json").write_text(json.dumps(card | {"schema": 2}))
    with pytest.raises(MmjaxError, match="has schema 2"):
        adapter_files.load_adapter_params(tmp_path)
    card["trainable"]["fingerprint"] = "0" * 64
    (tmp_path / "adapter_card.json").write_text(json.dumps(card))
    with pytest.raises(MmjaxError, match="is not the one its card names"):
        adapter_files.load_adapter_params(tmp_path)
    shutil.rmtree(tmp_path / card["params"])
    with pytest.raises(MmjaxError, match="is damaged"):
        adapter_files.load_adapter_params(tmp_path)
    (tmp_path / "adapter_card.json").write_text("{")
    with pytest.raises(MmjaxError, match="not readable as an adapter card"):
        adapter_files.load_adapter_params(tmp_path)
