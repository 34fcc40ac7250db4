"""An `instruct` run put together."""

import dataclasses
from typing import TypeAlias

from mmjax.data.library import Library
from mmjax.data.wording import Wording
from mmjax.encoders.base import Encoder
from mmjax.specs.spec import Stage
from mmjax.tasks.instruct.data import prepare_instructions
from mmjax.tasks.instruct.easy_vqa import InstructData
from mmjax.tasks.instruct.task import InstructTask, make_instruct
from mmjax.tasks.run import Assembly, Run

Instructed: TypeAlias = Assembly[InstructTask, InstructData]


def encoders_of(stage: Stage, library: Library) -> tuple[Encoder, Encoder]:
    """The frozen language model and vision transformer."""
    return library.encoder(stage.encoders["language"]), library.encoder(stage.encoders["image"])


def assemble(run: Run, library: Library) -> Instructed:
    """Builds the task, its data and its frozen tree.

    Args:
      run: a stage with a seed.
      library: loads encoders and questions once.

    Returns:
      The assembly; `frozen` lies on the mesh.
    """
    language, vision = encoders_of(run.stage, library)
    task = make_instruct(run.stage, language, vision)
    data = prepare_instructions(run.stage, run.seed, library, task.parts.routed)
    frozen = {"language": language.params, "image": vision.params}
    wording = Wording.of(run.stage.questions)
    return Assembly(task, data, frozen, on_card={"prompt": dataclasses.asdict(wording)})
