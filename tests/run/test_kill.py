"""kill -9 at moments all over a run, then the same command: the same adapters, bit by bit."""

import pytest

MOMENTS = ("caching", "training", "saving", "evaluating")


def reached(name, workdir, cache):
    """Whether the run in `workdir` has come to a moment."""
    stage = workdir / "seed_0" / "language"
    if name == "caching":
        return any(cache.glob("features/*/*.tmp")) or len(list(cache.glob("features/*"))) >= 2
    if name == "training":
        metrics = stage / "metrics.jsonl"
        return metrics.is_file() and metrics.read_bytes().count(b"\n") >= 5
    if name == "saving":
        folder = stage / "checkpoints"
        return any("tmp" in p.name for p in folder.glob("*")) or (folder / "6").is_dir()
    return (stage / "done.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_the_same_command_ends_as_if_nothing_had_happened(moment, toy, straight, tmp_path):
    workdir, env = tmp_path / "run", {}
    cache = toy.cache
    if moment == "caching":
        # Caches of their own for both runs: other tests may have filled the common one on eight
        # devices, which computes other last bits.
        cache, other = tmp_path / "cache", tmp_path / "other"
        straight = tmp_path / "straight"
        assert toy.run(straight, MMJAX_CACHE=str(other)).returncode == 0
        env = {"MMJAX_CACHE": str(cache)}
    assert toy.kill_when(lambda: reached(moment, workdir, cache), workdir, **env)
    assert not (workdir / "results.json").exists()
    done = toy.run(workdir, **env)
    assert done.returncode == 0, done.stderr
    assert "recovery ratio" in done.stdout
    assert toy.fingerprints(workdir) == toy.fingerprints(straight)
    for stage in ("base", "linear", "language"):
        assert toy.losses(workdir, stage) == toy.losses(straight, stage)
    left = [p.name for p in workdir.rglob("*") if p.name.endswith(".tmp") or "orbax-ch" in p.name]
    assert left == []
