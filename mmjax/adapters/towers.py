"""Adapters in a task's frozen towers, trained and read beside whatever else the task trains.

They lie under `adapters` in the trainable tree, by role. A task puts them among what is frozen
(`within`), where its towers find them (`mmjax.encoders.output.Tower`); without them a tower says
what it said before.
"""

import zlib
from collections.abc import Mapping

import jax
from jaxtyping import Array, Key

from mmjax.adapters.hooks import for_training
from mmjax.encoders.output import ADAPTERS, Tower
from mmjax.rng import DropoutKey
from mmjax.trees import PyTree


def begun(towers: Mapping[str, Tower], key: Key[Array, ""], frozen: PyTree) -> dict[str, PyTree]:
    """What a trainable tree has of adapters, before the first step.

    Args:
      towers: role -> tower.
      key: draws what is random.
      frozen: holds the encoders' weights by role.

    Returns:
      {"adapters": {role: parameters}}; nothing where no tower has one.
    """
    own = {
        role: tower.begin(_key(key, role), frozen[role])
        for role, tower in towers.items()
        if tower.begin is not None
    }
    return {ADAPTERS: own} if own else {}


def within(
    frozen: PyTree, trainable: PyTree, towers: Mapping[str, Tower], key: DropoutKey = None
) -> PyTree:
    """The frozen tree with the adapters of a trainable one in it; a key means dropout."""
    own = dict(trainable.get(ADAPTERS, {}))
    if not own:
        return frozen
    if key is not None:
        for role, tower in towers.items():
            if role in own and tower.layers:
                own[role] = for_training(own[role], _key(key, role), tower.layers)
    return {**frozen, ADAPTERS: {**frozen.get(ADAPTERS, {}), **own}}


def _key(key: Key[Array, ""], role: str) -> Key[Array, ""]:
    return jax.random.fold_in(key, zlib.crc32(f"adapters {role}".encode()))
