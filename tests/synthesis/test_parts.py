"""Work in batches: shards, kills and failures change no byte of what comes out."""

import numpy as np
import pytest

from mmjax.errors import MmjaxError
from mmjax.synthesis.parts import Failure, Parts, plan_batches

SIZES = np.array([3, 9, 1, 9, 4, 7, 7])


def done(row):
    return {"row": row, "text": f"item {row}"}


def merged(folder):
    return list(Parts(folder, len(SIZES)).merged())


def test_batches_hold_every_item_once_and_like_sizes_together():
    assert plan_batches(SIZES, 3) == [[1, 3, 5], [6, 4, 0], [2]]
    assert plan_batches(SIZES[:0], 3) == []


@pytest.mark.parametrize("shards", [1, 2, 3])
def test_shards_make_the_same_of_the_same_batches(tmp_path, shards):
    seen = []

    def do(batch):
        seen.append(list(batch))
        return [done(row) for row in batch]

    batches = plan_batches(SIZES, 2)
    for shard in reversed(range(shards)):
        assert Parts(tmp_path, len(SIZES), shard, shards).left()
        Parts(tmp_path, len(SIZES), shard, shards).work(batches, do, "test")
    assert not Parts(tmp_path, len(SIZES)).left()
    assert sorted(seen) == sorted(batches)  # whoever worked, the same items were together
    assert merged(tmp_path) == [(row, done(row)) for row in range(len(SIZES))]


def test_a_killed_shard_computes_a_torn_batch_whole_and_writes_what_lacks(tmp_path):
    batches = plan_batches(SIZES, 3)
    Parts(tmp_path, len(SIZES)).work(batches, lambda b: [done(row) for row in b], "test")
    whole = merged(tmp_path)
    (path,) = tmp_path.glob("*/lines.jsonl")
    lines = path.read_bytes()
    for cut in (1, len(lines) // 2, len(lines) - 3):
        path.write_bytes(lines[:cut])
        seen = []

        def do(batch, seen=seen):
            seen.append(list(batch))
            return [done(row) for row in batch]

        left = Parts(tmp_path, len(SIZES)).left()
        assert left
        Parts(tmp_path, len(SIZES)).work(batches, do, "test")
        assert all(batch in batches for batch in seen)
        assert merged(tmp_path) == whole
        assert path.read_bytes().count(b"\n") == len(SIZES)  # nothing stands twice


def test_what_failed_keeps_its_place_and_is_healed(tmp_path):
    broken = {3, 4}

    def do(batch):
        return [Failure("no picture", 2) if row in broken else done(row) for row in batch]

    batches = plan_batches(SIZES, 3)
    Parts(tmp_path, len(SIZES)).work(batches, do, "test")
    assert not Parts(tmp_path, len(SIZES)).left()
    found = dict(merged(tmp_path))
    assert {row for row, one in found.items() if isinstance(one, Failure)} == broken
    assert found[3] == Failure("no picture", 2)
    Parts(tmp_path, len(SIZES)).work(batches, lambda b: pytest.fail("asked again"), "test")
    broken.clear()
    Parts(tmp_path, len(SIZES)).work(batches, do, "test", retry_failed=True)
    assert dict(merged(tmp_path)) == {row: done(row) for row in range(len(SIZES))}


def test_what_cannot_be_merged_is_told(tmp_path):
    Parts(tmp_path, len(SIZES)).work([[0, 1]], lambda b: [done(row) for row in b], "test")
    with pytest.raises(MmjaxError, match="lacks 5 of 7 items; the same command goes on"):
        merged(tmp_path)
    (path,) = tmp_path.glob("*/lines.jsonl")
    path.write_bytes(b'{"row": "x"}\n')
    with pytest.raises(MmjaxError, match=r"lines.jsonl is damaged at byte 0; remove it"):
        merged(tmp_path)
    with pytest.raises(MmjaxError, match="shard 2 of 2; expected one from 0 to 1"):
        Parts(tmp_path, 1, 2, 2)
