"""The command: flags refused before anything is loaded, and what is told without Gradio."""

import importlib.util

import pytest

from mmjax.app import command
from mmjax.app.limits import Limits


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "the following arguments are required: --adapter"),
        (("--adapter", "a", "--share"), "give --share-with-anyone too"),
        (("--adapter", "a", "--share-with-anyone"), "says yes to --share"),
        (("--adapter", "a", "--port", "65536"), "below 65536"),
        (("--adapter", "a", "--concurrency", "0"), "--concurrency 0 must be at least 1"),
        (("--adapter", "a", "--concurrency", "17"), "at most 16"),
        (("--adapter", "a", "--max-megabytes", "0"), "--max-megabytes 0 must be"),
    ],
)
def test_flags_that_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit) as end:
        command.main(arguments)
    said = capsys.readouterr().err
    assert end.value.code == 2
    assert message in said
    assert len(said.splitlines()) == 1


def test_without_gradio_the_extra_is_named(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert command.main(["--adapter", "a"]) == 2
    assert "pip install 'mmjax[app]'" in capsys.readouterr().err


def test_limits_are_those_of_the_flags():
    options = command.parser().parse_args(["--adapter", "a", "--max-megabytes", "3"])
    assert command.limits_of(options).file_bytes == 3 << 20
    assert command.limits_of(options).waiting == Limits().waiting
    assert options.host == "127.0.0.1"


def test_which_addresses_are_of_this_machine_alone():
    assert all(map(command.is_loopback, ("127.0.0.1", "::1", "localhost")))
    assert not any(map(command.is_loopback, ("0.0.0.0", "192.0.2.1", "example.org")))
