"""What an error of somebody else's says, in a sentence of ours."""

import pytest

from mmjax.errors import first_line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("\n first \nsecond"), "first"),
        (RuntimeError(), "RuntimeError"),
        (OSError("x" * 300), "x" * 200),
    ],
)
def test_the_first_line_of_an_error(error, line):
    assert first_line(error) == line
