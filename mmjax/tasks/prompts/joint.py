"""The dual encoder that a few-shot stage stands on."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from mmjax import sharding
from mmjax.data.library import Library
from mmjax.encoders.output import Tower
from mmjax.errors import MmjaxError, setting
from mmjax.errors import check as check_setting
from mmjax.evals import Functions
from mmjax.specs.spec import Stage
from mmjax.tasks.base import DualEncoder, Task, below
from mmjax.tasks.dual_encoder.pretrained import PretrainedTask
from mmjax.tasks.dual_encoder.stacking import frozen_towers, load_base
from mmjax.tasks.published import Published
from mmjax.trees import PyTree


@dataclass(frozen=True)
class Joint:
    """A finished dual encoder: its space for pictures and names.

    Attributes:
      task: the dual encoder.
      frozen: its parameters, as `base` and perhaps `below`.
      card: of the finished run; None where the towers share a space of their own.
      towers: role -> tower.
    """

    task: DualEncoder
    frozen: dict[str, PyTree]
    card: Mapping[str, Any] | None
    towers: Mapping[str, Tower]

    def functions(self, library: Library) -> Functions:
        """`embed_images` and `embed_texts`, bound."""
        return Published(self.task, library.mesh).bind(self.frozen["base"], below(self.frozen))


def joint_of(stage: Stage, folder: Path | None, library: Library) -> Joint:
    """The dual encoder that a stage stands on.

    Args:
      stage: names the encoders.
      folder: of the base's adapter; None where the encoders share a space already.
      library: loads encoders.

    Returns:
      The dual encoder, its parameters on the mesh.

    Raises:
      MmjaxError: encoders that share no space.
    """
    if folder is None:
        return joint_on(stage, None, {}, None, library)
    return joint_on(
        stage, *load_base(folder, frozen_towers(stage, library), library.mesh), library=library
    )


def joint_on(
    stage: Stage,
    task: Task | None,
    frozen: dict[str, PyTree],
    card: Mapping[str, Any] | None,
    library: Library,
) -> Joint:
    """The same where the base is loaded already, or where there is none.

    Raises:
      MmjaxError: encoders that share no space.
    """
    towers = frozen_towers(stage, library)
    if task is not None:
        assert isinstance(task, DualEncoder)
        check_setting(
            task.text_role == stage.text_role,
            "encoders",
            sorted(towers),
            f"those of the base, which reads its texts with the encoder {task.text_role!r}",
        )
        return Joint(task, frozen, card, towers)
    own = own_space(stage, library)
    base = sharding.place(own.init(jax.random.key(0), {}, {}), library.mesh)
    return Joint(own, {"base": base}, None, towers)


def own_space(stage: Stage, library: Library) -> PretrainedTask:
    """The dual encoder of two towers that share a space as they are.

    Raises:
      MmjaxError: they share none.
    """
    towers = frozen_towers(stage, library)
    check_setting(
        "foreign" not in towers, "encoders", sorted(towers), "no 'foreign' without a base"
    )
    widths = {role: tower.width for role, tower in towers.items()}
    scale = library.encoder(stage.encoders["image"]).logit_scale
    if widths["image"] != widths["text"] or scale is None:
        raise MmjaxError(
            f"{setting('base')} is empty, and {setting('encoders')} share no space (widths "
            f"{widths}, logit_scale {scale}); give both towers of one CLIP, or a base"
        )
    return PretrainedTask(towers["image"], towers["text"], scale)
