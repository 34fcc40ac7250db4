"""Parallel text that is held out to choose the best step by."""

import pytest

from mmjax.data.library import Library
from mmjax.data.records import Pair
from mmjax.errors import MmjaxError
from mmjax.specs.data import PairsSpec, ParallelSpec
from mmjax.specs.spec import EncoderSpec, Stage, TrainSpec
from mmjax.tasks.dual_encoder import parallel
from mmjax.tasks.dual_encoder.parallel import held_out

ROLES = ("image", "text", "foreign")
# Every tenth sentence stands twice, with another translation.
PAIRS = [Pair(f"s{i % 90}", (f"t{i}",)) for i in range(100)]


@pytest.fixture
def library(mesh, monkeypatch):
    monkeypatch.setattr(parallel, "pairs_of", lambda *_: PAIRS)
    return Library(mesh(1), ("zh", "en"))


def stage(count: int) -> Stage:
    return Stage(
        "language",
        "language",
        {role: EncoderSpec("somewhere") for role in ROLES},
        pairs=PairsSpec(sides=("train", "test")),
        parallel=ParallelSpec(("pairs.jsonl",), val_pairs=count),
        train=TrainSpec(select="cosine_to_base"),
    )


def test_no_sentence_stands_on_both_sides(library):
    kept, held = held_out(stage(30), 0, library)
    assert len(held) == 30
    assert 100 - 60 <= len(kept) <= 70
    assert not {p.source for p in kept} & {p.source for p in held}
    assert [p for p in PAIRS if p in kept or p in held] != [*kept, *held]  # drawn, not cut off
    assert held_out(stage(30), 0, library) == (kept, held)
    assert held_out(stage(30), 1, library) != (kept, held)


def test_none_or_too_many(library):
    assert held_out(stage(0), 0, library) == (PAIRS, [])
    with pytest.raises(MmjaxError, match="val_pairs is 100, which leaves nothing of 100 pairs"):
        held_out(stage(100), 0, library)
