"""Recipes by name, from anywhere, with settings replaced; what `mmjax` makes of them."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mmjax.commands import cli, recipes
from mmjax.errors import MmjaxError

CONFIGS = Path(__file__).parents[2] / "configs"


def test_every_recipe_is_brought_and_says_what_it_is():
    found = recipes.names()
    assert set(found) == {path.stem for path in CONFIGS.glob("*.py")} - {"__init__"}
    assert all(len(what) > 20 and "\n" not in what for what in found.values())


@pytest.mark.parametrize("name", ["language_emoji", "language_emoji.py", "configs/language_emoji"])
def test_names_are_found_from_anywhere(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path, _, size = recipes.find_recipe(f"{name}:tiny").rpartition(":")
    assert (Path(path).name, size) == ("language_emoji.py", "tiny")
    assert Path(path).is_file()


def test_a_file_of_the_users_own_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("language_emoji.py").write_text("")
    assert recipes.find_recipe("language_emoji.py") == "language_emoji.py"


@pytest.mark.parametrize("name", ["langauge_emoji", "elsewhere/language_emoji", "", "nothing.py:x"])
def test_what_is_no_recipe(name):
    with pytest.raises(MmjaxError, match=r"there is no recipe .* one of .*, domain_emoji"):
        recipes.find_recipe(name)


def test_settings_are_replaced_and_unknown_ones_refused():
    config: Any = recipes.load_recipe("language_emoji:tiny", {"optim.lr": 3e-4, "base": "runs/x"})
    assert (config.optim.lr, config.base) == (3e-4, "runs/x")
    with pytest.raises(MmjaxError, match=r"config\.optim\.rl is no setting .* known: .*lr"):
        recipes.load_recipe("language_emoji", {"optim.rl": 1})
    with pytest.raises(MmjaxError, match=r"config\.nothing\.lr .* no 'nothing'"):
        recipes.load_recipe("language_emoji", {"nothing.lr": 1})
    with pytest.raises(MmjaxError, match=r"config\.optim\.lr\.x is no setting"):
        recipes.load_recipe("language_emoji", {"optim.lr.x": 1})


def test_a_recipe_that_fails_is_one_sentence(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("def get_config():\n    return 1 / 0\n")
    with pytest.raises(MmjaxError, match=r"cannot read the recipe .*mine.py: division by zero"):
        recipes.load_recipe(str(path), {})


def test_the_commands_are_the_flags_of_the_main_program():
    train, flag = cli.arguments(["train", "language_emoji:tiny", "--config.optim.lr=1"])
    assert train.startswith("--config=")
    assert train.endswith("language_emoji.py:tiny")
    assert flag == "--config.optim.lr=1"
    assert cli.arguments(["evaluate", "runs/a"]) == ["--mode=evaluate", "--workdir=runs/a"]
    assert cli.arguments(["export", "runs/a", "-v=1"])[-1] == "-v=1"
    assert cli.arguments(["train", "--help"]) == ["--help"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["trian"], r"there is no command .trian.; known: .*did you mean .train."),
        (["train"], "mmjax train needs a recipe"),
        (["evaluate", "--mode=x"], "mmjax evaluate needs a run folder"),
    ],
)
def test_what_is_no_command(argv, message):
    with pytest.raises(MmjaxError, match=message):
        cli.arguments(argv)


def test_the_command_lists_and_helps_outside_of_a_checkout(tmp_path):
    def say(*argv: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "mmjax.commands.cli", *argv]
        return subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
        )

    listed = say("list")
    assert listed.returncode == 0, listed.stderr
    assert "lavin_easyvqa" in listed.stdout
    assert "tasks:\n  contrastive" in listed.stdout
    assert "mmjax train" in say().stdout
    wrong = say("train", "nothing")
    assert wrong.returncode == 1
    assert wrong.stderr.startswith("error: there is no recipe 'nothing'")
    helped = say("train", "--help")
    assert helped.returncode == 0
    assert "--config.KEY=VALUE" in helped.stdout
