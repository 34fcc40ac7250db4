"""A flipped bit, or no file, in each place of the latest checkpoint: seen, or without effect."""

import pytest

from mmjax import trees
from tests import test_checkpoint

saved = test_checkpoint.saved


def files_of(folder):
    return sorted(path for path in (folder / "5").rglob("*") if path.is_file())


@pytest.mark.parametrize("how", ["flipped", "removed"])
def test_in_each_file_of_it(how, saved, mesh, tmp_path, caplog):
    folder, state, _ = saved
    kept = {path: path.read_bytes() for path in files_of(folder)}
    assert len(kept) >= 5
    outcomes = {}
    for path, content in kept.items():
        if how == "removed":
            path.unlink()
        elif content:
            broken = bytearray(content)
            broken[len(broken) // 2] ^= 0x10
            path.write_bytes(bytes(broken))
        else:
            continue
        caplog.clear()
        found, batches = test_checkpoint.restore(folder, mesh(1))
        assert found is not None, f"{path}: both checkpoints are refused"
        step = int(found[0].step)
        assert step in (3, 5), path
        assert batches.get_state()["next_index"] == step, path
        if step == 5:  # then nothing that was read is damaged
            assert trees.fingerprint(found[0].trainable) == trees.fingerprint(state.trainable), path
            assert trees.fingerprint(found[0].opt_state) == trees.fingerprint(state.opt_state), path
        else:
            assert any("5" in record.getMessage() for record in caplog.records), path
        outcomes[path.relative_to(folder).as_posix()] = step
        if not path.parent.exists():
            path.parent.mkdir(parents=True)
        for where, what in kept.items():
            if not where.exists() or where.read_bytes() != what:
                where.parent.mkdir(parents=True, exist_ok=True)
                where.write_bytes(what)
    assert 3 in outcomes.values(), "no damage was seen at all"
