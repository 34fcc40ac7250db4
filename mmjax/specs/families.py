"""Every task's settings by name."""

from collections.abc import Mapping

from mmjax.errors import check
from mmjax.specs import dual_encoder, instruct, projection, prompts
from mmjax.specs.family import Family

FAMILIES: Mapping[str, Family] = {
    "contrastive": dual_encoder.CONTRASTIVE,
    "pretrained": dual_encoder.PRETRAINED,
    "language": dual_encoder.LANGUAGE,
    "domain": dual_encoder.DOMAIN,
    "projection": projection.FAMILY,
    "prompts": prompts.FAMILY,
    "instruct": instruct.FAMILY,
}


def family_of(task: str) -> Family:
    """The settings of a task.

    Raises:
      MmjaxError: there is none of this name.
    """
    check(task in FAMILIES, "task", task, f"one of {list(FAMILIES)}")
    return FAMILIES[task]
