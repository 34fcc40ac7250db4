"""The shell completes commands, recipes by name, options and files."""

import shutil
import subprocess

import pytest

from mmjax.commands import cli, completion, listing, recipes
from mmjax.specs.build import as_dict
from mmjax.specs.families import family_of
from mmjax.specs.recipe import resolve_recipe


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        (["mmjax", "tr"], {"train"}),
        (["mmjax", "train", "language_e"], {"language_emoji"}),
        (["mmjax", "new", "proj"], {"projection"}),
        (["mmjax", "check", "--js"], {"--json"}),
    ],
)
def test_bash_completes(typed, found, tmp_path):
    words = " ".join(f"'{word}'" for word in typed)
    script = (
        f"{completed('bash')}\nCOMP_WORDS=({words}); COMP_CWORD={len(typed) - 1}\n"
        '_shtab_mmjax; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    bash = shutil.which("bash")
    assert bash is not None
    done = subprocess.run([bash, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert found <= set(done.stdout.split())


def completed(shell: str) -> str:
    return completion.shtab.complete(completion.whole(), shell, preamble=completion._preamble())


def test_every_command_is_completed(capsys):
    for shell in ("bash", "zsh"):
        assert completion.main([shell]) == 0
        script = capsys.readouterr().out
        assert all(command in script for command in cli.COMMANDS)
        assert "language_emoji" in script


def test_parts_are_listed_by_kind(capsys):
    assert listing.main(["corpora", "adapters"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("corpora:\n")
    assert "your own: FILE.jsonl" in said
    assert "lora" in said
    assert "recipes" not in said
    with pytest.raises(SystemExit):
        listing.main(["nothing"])


def test_what_any_recipe_is_measured_by_is_listed():
    listed = set(listing.PARTS["evaluators"]())
    for name in recipes.names():
        config = as_dict(recipes.load_recipe(name, {}))
        if "task" in config:  # no synthesis
            recipe = resolve_recipe(config)
            known, _ = family_of(recipe.main.task).evals(recipe.main)
            assert {*recipe.evals, *known} <= listed, name
