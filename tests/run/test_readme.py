"""The README's first Python snippet runs as it stands, on pictures and a run made on the spot."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

from mmjax import assets

ROOT = Path(__file__).parents[2]


def test_the_first_snippet_runs(finished, toy, tmp_path):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    code = re.findall(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)[0]
    pictures = re.findall(r'"(photos/[^"]+)"', code)
    assert len(pictures) >= 2
    for i, name in enumerate(pictures):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(toy.folder / f"{i:02d}.png", tmp_path / name)
    (run,) = re.findall(r'load_adapter\("([^"]+)"', code)
    (tmp_path / run).parent.mkdir(parents=True)
    (tmp_path / run).symlink_to(finished.absolute(), target_is_directory=True)
    check = "assert texts.shape[0] == 1 and len(features) == len(pictures) == len(images)\n"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code + check],
        cwd=tmp_path,
        # The real asset, out of the cache that this process uses.
        env=toy.environment(MMJAX_CACHE=str(assets.cache_dir()), MMJAX_OFFLINE="0"),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
