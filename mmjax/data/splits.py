"""Splits by family: near-duplicates never stand on two sides."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from mmjax.errors import MmjaxError

Split = dict[str, np.ndarray]


def split_by_family(
    families: Sequence[str],
    seed: int,
    test_fraction: float,
    val_fraction: float,
    given: Sequence[str] = (),
) -> Split:
    """Deals whole families to test, validation and training.

    Args:
      families: the family of every item.
      seed: draws the order of the families.
      test_fraction: share of the items (not of the families) held out for the test.
      val_fraction: share of the items held out for model selection.
      given: "train" or "test" of every item, where the data has a test set of its own; that one is
        taken, and a share of its training items for validation. "" or nothing: dealt.

    Returns:
      {"train", "val", "test"} -> sorted int64 indices of items.

    Raises:
      MmjaxError: a side would be empty.
    """
    fixed = [i for i, side in enumerate(given) if side == "test"]
    members: dict[str, list[int]] = defaultdict(list)
    for i in sorted(set(range(len(families))) - set(fixed)):
        members[families[i]].append(i)
    order = sorted(members)
    np.random.default_rng(seed).shuffle(order)
    wanted = {
        "test": 0 if fixed else round(len(families) * test_fraction),
        "val": round(len(families) * val_fraction),
        "train": len(families),
    }
    sides: dict[str, list[int]] = {"test": fixed, "val": [], "train": []}
    for family in order:
        side = next(name for name in wanted if len(sides[name]) < wanted[name])
        sides[side].extend(members[family])
    empty = [name for name, indices in sides.items() if not indices]
    if empty:
        raise MmjaxError(
            f"the {len(families)} items in {len(members)} families leave nothing for {empty}; "
            "give more items or other config.pairs.test_fraction and val_fraction"
        )
    return {name: np.sort(np.asarray(sides[name], np.int64)) for name in ("train", "val", "test")}


def split_by_class(
    families: Sequence[str],
    labels: Sequence[str],
    seed: int,
    test_fraction: float,
    val_fraction: float,
) -> Split:
    """Deals whole families to test, validation and training, each label for itself.

    A family that has several labels stays on the side that the first of them put it on.

    Args:
      families: the family of every item.
      labels: the label of every item.
      seed: draws the order of the families.
      test_fraction: share of each label's items held out for the test.
      val_fraction: share of each label's items held out for model selection.

    Returns:
      {"train", "val", "test"} -> sorted int64 indices of items.

    Raises:
      MmjaxError: a side would be empty.
    """
    by_label: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for i, (family, label) in enumerate(zip(families, labels, strict=True)):
        by_label[label][family].append(i)
    rng, side_of = np.random.default_rng(seed), {}
    counts: dict[tuple[str, str], int] = defaultdict(int)
    for label in sorted(by_label):
        members = by_label[label]
        total = sum(map(len, members.values()))
        wanted = {"test": round(total * test_fraction), "val": round(total * val_fraction)}
        order = sorted(members)
        rng.shuffle(order)
        # What is dealt already counts first.
        for family in sorted(order, key=lambda f: f not in side_of):
            open_sides = (s for s in wanted if counts[label, s] < wanted[s])
            side = side_of.setdefault(family, next(open_sides, "train"))
            counts[label, side] += len(members[family])
    sides: dict[str, list[int]] = {"train": [], "val": [], "test": []}
    for i, family in enumerate(families):
        sides[side_of[family]].append(i)
    empty = [name for name, indices in sides.items() if not indices]
    if empty:
        raise MmjaxError(
            f"the {len(families)} items of {len(by_label)} labels leave nothing for {empty}; give "
            "more items or other config.pairs.test_fraction and val_fraction"
        )
    return {name: np.asarray(indices, np.int64) for name, indices in sides.items()}
