"""Prompts that CoOp trained: `prompt_learner.ctx` of its checkpoints."""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from mmjax.checks import foreign, foreign_arrays
from mmjax.errors import MmjaxError
from mmjax.interop.checkpoints import open_checkpoint

NAMES = ("prompt_learner.ctx", "ctx")


def load_context(path: Path | str) -> Float[np.ndarray, "*c m d"]:
    """Reads the learnt context of a checkpoint, without executing its pickle.

    Args:
      path: `prompt_learner/model.pth.tar-N`, a state dict of the whole model, or either of them as
        safetensors.

    Returns:
      f32 [m, d], shared by all classes; [c, m, d] where every class has its own (CSC).

    Raises:
      MmjaxError: damaged, without such a tensor, or with numbers that are not finite.

    Source:
      CoOp's trainers/coop.py: `ctx` is [n_ctx, ctx_dim] or [n_cls, n_ctx, ctx_dim].
    """
    path = Path(path)
    file = open_checkpoint(path, "CoOp", "prompt_learner/model.pth.tar-N")
    names = set(file.keys())
    name = next((n for n in NAMES if n in names), None)
    if name is None:
        raise MmjaxError(
            f"{path} has no tensor {' or '.join(NAMES)} (it has "
            f"{foreign.shown(sorted(names)[:4])}); expected a checkpoint of CoOp's prompt learner"
        )
    context = foreign_arrays.floating(f"{path}: {name}", file.read(name)).astype(np.float32)
    if context.ndim not in (2, 3) or 0 in context.shape:
        raise MmjaxError(
            f"{path}: {name} has shape {list(context.shape)}; expected [m, d] or [c, m, d]"
        )
    return context
