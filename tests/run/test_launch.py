"""What is launched elsewhere, as far as it can be held to something here."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from mmjax.assets.manifest import MANIFEST
from mmjax.processes.launchers import find_launch

LAUNCH = Path(__file__).parents[2] / "launch"
POD = ("--project", "p", "--zone", "z", "--name", "mine")
# Of `gcloud compute tpus tpu-vm ACTION --help`: what each takes beside the name.
GCLOUD = {
    "create": {"--zone", "--project", "--accelerator-type", "--version", "--spot"},
    "describe": {"--zone", "--project", "--format"},
    "ssh": {"--zone", "--project", "--worker", "--command"},
    "scp": {"--zone", "--project", "--worker"},
    "delete": {"--zone", "--project", "--quiet"},
}


@pytest.fixture
def pod(tmp_path):
    """Runs tpu_pod.sh with a gcloud that records; `there` says whether the slice exists."""
    place = tmp_path / "bin"
    place.mkdir()
    record = tmp_path / "calls"
    fake = place / "gcloud"
    fake.write_text(
        '#!/usr/bin/env bash\nprintf "%s\\0" "$@" >>"$RECORD"; printf "\\n" >>"$RECORD"\n'
        "[[ $4 == describe ]] && { [[ $THERE ]] && echo READY || exit 1; }\nexit 0\n"
    )
    fake.chmod(0o755)

    def run(*arguments, there=False):
        record.unlink(missing_ok=True)
        done = subprocess.run(
            ["bash", str(LAUNCH / "tpu_pod.sh"), *arguments],
            env={
                **os.environ,
                "PATH": f"{place}:{os.environ['PATH']}",
                "RECORD": str(record),
                "THERE": "yes" if there else "",
                "TMPDIR": str(tmp_path),
            },
            cwd=LAUNCH.parent,
            capture_output=True,
            text=True,
        )
        lines = record.read_text().splitlines() if record.exists() else []
        calls = [line.rstrip("\0").split("\0") for line in lines]
        for call in calls:
            assert call[:3] == ["compute", "tpus", "tpu-vm"]
            given = {x.partition("=")[0] for x in call[5:] if x.startswith("--")}
            assert given <= GCLOUD[call[3]], f"gcloud {call[3]} does not take {given}"
        return done, calls

    return run


def test_a_slice_is_made_once_and_used_again(pod):
    done, calls = pod(*POD, "--type", "v5litepod-16", "--spot", "create")
    assert done.returncode == 0, done.stderr
    assert [call[3] for call in calls] == ["describe", "create"]
    assert calls[1][4:] == [
        *("mine", "--zone", "z", "--project", "p", "--accelerator-type", "v5litepod-16"),
        *("--version", "v2-alpha-tpuv5-lite", "--spot"),
    ]
    done, calls = pod(*POD, "--type", "v5litepod-16", "create", there=True)
    assert [call[3] for call in calls] == ["describe"]
    assert "used again" in done.stdout


def test_every_host_runs_the_same_command_with_its_words_whole(pod):
    done, (call,) = pod(*POD, "run", "--config", "a b.py", "--workdir", "/mnt/$x")
    assert done.returncode == 0, done.stderr
    assert call[3:5] == ["ssh", "mine"]
    assert "--worker=all" in call
    command = call[call.index("--command") + 1]
    assert "python -m mmjax.main --distributed" in command
    script = command.replace(".venv/bin/python -m mmjax.main", "printf '%s\\n'")
    script = script.partition("2>&1")[0].partition("&& ")[2]
    said = subprocess.run(["bash", "-c", script], capture_output=True, text=True).stdout
    assert said.splitlines() == ["--distributed", "--config", "a b.py", "--workdir", "/mnt/$x"]


def test_what_is_installed_fetched_shown_and_taken_away(pod):
    for action, kinds in {"tail": ["ssh"], "delete": ["delete"]}.items():
        done, calls = pod(*POD, action)
        assert done.returncode == 0, done.stderr
        assert [call[3] for call in calls] == kinds
    done, (call,) = pod(*POD, "fetch", "minilm-l6")
    assert call[-1].endswith("python -m mmjax.assets fetch minilm-l6 ")


@pytest.mark.parametrize(
    "arguments", [(), ("run",), (*POD,), (*POD, "create"), (*POD, "--nonsense", "run"), (*POD, "x")]
)
def test_what_is_missing_is_told(pod, arguments):
    done, calls = pod(*arguments)
    assert done.returncode == 2
    assert done.stderr
    assert not calls


def jobset():
    return yaml.safe_load((LAUNCH / "gke_jobset.yaml").read_text())


def test_the_jobset_numbers_its_pods_as_mmjax_reads_them():
    (job,) = jobset()["spec"]["replicatedJobs"]
    hosts = job["template"]["spec"]["completions"]
    assert hosts == job["template"]["spec"]["parallelism"]
    pod = job["template"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    named = {one["name"]: one for one in container["env"]}
    said = {name: one["value"] for name, one in named.items() if "value" in one}
    assert int(said["PODS_PER_JOB"]) == hosts
    assert int(said["JAX_NUM_PROCESSES"]) == hosts * job["replicas"]
    told = {"JOBSET_NAME": "a", "REPLICATED_JOB_NAME": job["name"], "JOB_INDEX": "0"}
    assert all("fieldRef" in named[name]["valueFrom"] for name in told)
    environment = {**said, **told, "JOB_COMPLETION_INDEX": "3"}
    found = find_launch(environment)
    assert found is not None
    assert (found.coordinator, found.count, found.index) == ("a-workers-0-0.a:8476", hosts, 3)
    assert pod["terminationGracePeriodSeconds"] >= 60, "SIGTERM saves at the next step"


def test_assets_that_are_fetched_beforehand_are_there():
    known = set(MANIFEST)
    (job,) = jobset()["spec"]["replicatedJobs"]
    (first,) = job["template"]["spec"]["template"]["spec"]["initContainers"]
    assert first["args"]
    assert set(first["args"]) <= known
    sky = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
    assert set(sky["envs"]["ASSETS"].split()) <= known


@pytest.mark.parametrize("kind", ["cpu", "gpu", "tpu"])
def test_images_copy_what_is_there(kind):
    text = (LAUNCH / f"Dockerfile.{kind}").read_text()
    for line in re.findall(r"^COPY (.*)$", text, re.MULTILINE):
        for path in line.split()[:-1]:
            assert (LAUNCH.parent / path).exists(), path
    assert 'ENTRYPOINT ["mmjax"]' in text, "as a shell's child it would get no SIGTERM"
    extra = {"cpu": "'.'", "gpu": "'.[gpu]'", "tpu": "'.[tpu]'"}[kind]
    assert f"pip install {extra}" in text


def test_slurm_starts_one_process_a_task(tmp_path):
    fake = tmp_path / "srun"
    fake.write_text('#!/usr/bin/env bash\nprintf "%s\\n" "$@"\necho "$MMJAX_OFFLINE"\n')
    fake.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "MMJAX_CACHE": "/c"}
    done = subprocess.run(
        ["bash", str(LAUNCH / "slurm.sbatch"), "--config", "a b.py"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-4:] == ["--distributed", "--config", "a b.py", "1"]
    del environment["MMJAX_CACHE"]
    done = subprocess.run(
        ["bash", str(LAUNCH / "slurm.sbatch")], env=environment, capture_output=True, text=True
    )
    assert "set MMJAX_CACHE" in done.stderr
