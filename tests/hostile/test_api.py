"""The public functions as users call them: natural mistakes are told in a sentence."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hostile import natural_mistakes
from tests.hostile.natural_mistakes import CASES, GOOD

ROOT = Path(__file__).parents[2]
KINDS = ("MmjaxError", "WeightsError", "DataError", "AssetError")
SCIKIT = list(CASES)[list(CASES).index("labels of NaN") :]


@pytest.fixture(scope="module")
def told(tmp_path_factory, write_folder):
    """{case: (kind of error, message)}, from a process in which no annotation is checked."""
    folder = tmp_path_factory.mktemp("models")
    for name, golden in (("llama", "llama_tiny"), ("bert", "bert_tiny"), ("clip", "clip_tiny")):
        write_folder(folder / name, golden)
    done = subprocess.run(
        [sys.executable, "-m", natural_mistakes.__name__, str(folder)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "MMJAX_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", CASES)
def test_a_natural_mistake_is_told(name, told):
    kind, message = told[name]
    assert kind in (("ValueError",) if name in SCIKIT else KINDS), (kind, message)
    assert CASES[name][1] in message
    if name not in SCIKIT:  # scikit-learn's own messages are longer
        assert "\n" not in message
        assert len(message) < 600


@pytest.mark.parametrize("name", GOOD)
def test_what_is_no_mistake_works(name, told):
    assert told[name] == ["", "True"]
