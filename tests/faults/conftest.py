"""Faults take minutes: they run where MMJAX_FAULTS=1 is set, as `python -m tests.faults` does."""

import os

import pytest

from tests.run import conftest as runs
from tests.run import test_instruct

toy, straight, start = runs.toy, runs.straight, runs.start
instruct_recipe, world = test_instruct.recipe, test_instruct.world


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leaves out what nobody asked for."""
    if os.environ.get("MMJAX_FAULTS") == "1":
        return
    skip = pytest.mark.skip(reason="a fault of minutes; MMJAX_FAULTS=1 runs it")
    for item in items:
        if item.get_closest_marker("faults"):  # a folder of this name is a keyword too
            item.add_marker(skip)
