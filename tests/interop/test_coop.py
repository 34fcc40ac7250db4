"""CoOp's own checkpoints, with a scheduler beside the tensors; and files that are none."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from mmjax.errors import MmjaxError, WeightsError
from mmjax.interop.coop import load_context
from mmjax.weights.torch_file import TorchFile


@pytest.fixture
def checkpoint(golden, tmp_path):
    path = tmp_path / "model.pth.tar-50"
    path.write_bytes(golden("coop_tiny")["checkpoint"].tobytes())
    return path


def test_the_context_of_a_training_checkpoint_is_read_and_nothing_is_run(checkpoint, golden):
    np.testing.assert_array_equal(load_context(checkpoint), golden("coop_tiny")["ctx"])
    # Weights of encoders are read more strictly: there a class that is no tensor is an error.
    with pytest.raises(WeightsError, match=r"CosineAnnealingLR.*only tensors are read"):
        TorchFile(checkpoint)


def test_whole_models_and_a_context_for_each_class(tmp_path):
    path = tmp_path / "coop.safetensors"
    shared, own = (np.arange(n, dtype=np.float32) for n in (8, 24))
    save_file({"prompt_learner.ctx": shared.reshape(2, 4), "logit_scale": own}, path)
    np.testing.assert_array_equal(load_context(path), shared.reshape(2, 4))
    save_file({"ctx": own.reshape(3, 2, 4)}, path)
    assert load_context(path).shape == (3, 2, 4)


def test_files_that_are_no_prompt_learner(tmp_path, checkpoint):
    with pytest.raises(MmjaxError, match="no CoOp checkpoint at"):
        load_context(tmp_path / "lacks")
    path = tmp_path / "other.safetensors"
    save_file({"weight": np.zeros(2, np.float32)}, path)
    with pytest.raises(MmjaxError, match=r"no tensor prompt_learner.ctx or ctx \(it has \['weight"):
        load_context(path)
    save_file({"ctx": np.zeros(2, np.float32)}, path)
    with pytest.raises(MmjaxError, match=r"ctx has shape \[2\]; expected \[m, d\] or"):
        load_context(path)
    checkpoint.write_bytes(checkpoint.read_bytes()[:-40])
    with pytest.raises(MmjaxError, match=r"damaged|torch file"):
        load_context(checkpoint)
