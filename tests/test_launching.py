"""The commands of docs/how-to/launch.md, without the machines that they need.

Every block of the page is executed, and every script and manifest that it writes, with
programs of the same names that write down what they were given: `gcloud` and `srun`
execute the command that they would execute elsewhere. Every `specialize` command that
was reached this way is parsed by the command line and its configuration is checked.
"""

import contextlib
import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time

import pytest
import yaml
from test_documented_commands import PAGES, blocks

from specialize import cli, config

PAGE = "docs/how-to/launch.md"
SHELLS = ("bash", "sh", "shell")
# Writes down its words, and then does what the environment says of its name.
STUB = """#!{python}
import json, os, sys, time
name = os.path.basename(sys.argv[0])
with open(os.environ["CALLS"], "a") as file:
    file.write(json.dumps([name, *sys.argv[1:]]) + "\\n")
os.execvp("bash", ["bash", "-c", os.environ.get(name.upper(), "true"), *sys.argv])
"""
# Shell commands instead of the programs: $0 is the program's name, "$@" its arguments.
ELSEWHERE = {
    "GCLOUD": 'for word; do [[ $word != --command=* ]] || bash -c "${word#*=}"; done',
    "SRUN": 'while [[ $1 == -* ]]; do shift; done; "$@"',
}
PROGRAMS = ("specialize", "pip", "gcloud", "srun", "sbatch", "scontrol", "kubectl")
STOPPED = "echo 'stopped: step 7 is saved; the same command resumes the run'"
# Chips of the machines that the page speaks of, by the recipe's size and the mesh.
DEVICES = {"flan_t5_xl": 16, "flan_t5_xxl": 64, "tiny_gsm8k": 8}
SLURM_DEVICES = 4 * 8
ENTRY = "specialize.training.loop.train.train"


def of_processes(words):
    """Whether a command is one of several processes."""
    return any("process_" in word or "multiprocess" in word for word in words)


class Place:
    """A folder with programs of the page's names."""

    def __init__(self, folder):
        self.folder = folder
        self._calls = folder / "calls.jsonl"
        (folder / "bin").mkdir()
        for name in PROGRAMS:
            file = folder / "bin" / name
            file.write_text(STUB.format(python=sys.executable))
            file.chmod(0o755)

    def start(self, text, **programs):
        """Starts a script in bash."""
        self._calls.write_text("")
        environment = {
            **os.environ,
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "CALLS": str(self._calls),
            "SLURM_JOB_ID": "12",
            **ELSEWHERE,
            **programs,
        }
        return subprocess.Popen(
            ["bash", "-c", text],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, text, **programs):
        """Executes a script; gives its status and the calls of programs."""
        process = self.start(text, **programs)
        process.communicate(timeout=120)
        return process.returncode, self.calls()

    def calls(self):
        return [json.loads(line) for line in self._calls.read_text().splitlines()]


def shell_blocks(page=PAGE):
    return [one for one in blocks(page) if one.info.split()[0] in SHELLS]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A place in which every block was executed, and the calls of each block."""
    place = Place(tmp_path_factory.mktemp("launched"))
    done = []
    for block in shell_blocks():
        status, calls = place.run(f"set -e -o pipefail\n{block.text}")
        assert status == 0, f"{PAGE}:{block.line}"
        done += [call for call in calls if call[0] == "specialize"]
    return place, done


def job_set(place):
    return yaml.safe_load((place.folder / "xxl.yaml").read_text())


def pod_of(job_set):
    [slices] = job_set["spec"]["replicatedJobs"]
    return slices["template"]["spec"], slices["template"]["spec"]["template"]["spec"]


def script_of_pod(place):
    [container] = pod_of(job_set(place))[1]["containers"]
    assert container["command"] == ["bash", "-c"]
    [script] = container["args"]
    return script


@pytest.fixture(scope="module")
def scripts(page):
    """Every script that a block of the page writes, by name."""
    place, _ = page
    return {
        "xl.sbatch": (place.folder / "xl.sbatch").read_text(),
        "start.sh": (place.folder / "start.sh").read_text(),
        "xxl.yaml": script_of_pod(place),
    }


@pytest.mark.parametrize("name", PAGES)
def test_every_block_of_commands_is_bash(name):
    for block in shell_blocks(name):
        done = subprocess.run(
            ["bash", "-n"], input=block.text, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{name}:{block.line}: {done.stderr}"


def test_every_command_of_the_page_is_one_that_we_have(page, scripts):
    """Its flags are parsed, and its configuration has no problem on those chips."""
    place, found = page
    slurm = []
    for name, text in scripts.items():
        status, calls = place.run(text)
        assert status == 0, name
        own = [call for call in calls if call[0] == "specialize"]
        assert own, name
        slurm += own if name.endswith("sbatch") else []
        found = found + own
    assert len(found) >= 8
    for _, *words in map(list, dict.fromkeys(map(tuple, found))):
        # A store is not asked; a bucket has the same paths.
        given = [word.replace("gs://bucket/", "") for word in words]
        overrides = [word for word in given if word.startswith("--gin.")]
        flags = cli.parser().parse_args([w for w in given if w not in overrides])
        flags.gin_overrides = overrides
        files, bindings, folders = config.words_of_flags(flags)
        devices = DEVICES[pathlib.Path(files[0]).stem]
        if ["specialize", *words] in slurm:
            devices = SLURM_DEVICES
        read = config.read(files, bindings, folders, entry=ENTRY)
        problems = [
            problem
            for problem in config.lint(read, devices=devices)
            if "spiece.model' does not exist" not in str(problem)
        ]
        assert not problems, (shlex.join(words), list(map(str, problems)))
        assert of_processes(words) == (
            files[0].endswith("xxl.gin") and words[0] == "train"
        )


def test_the_batch_job_asks_slurm_for_the_signal_that_the_run_understands(scripts):
    lines = scripts["xl.sbatch"].splitlines()
    assert lines[0] == "#!/bin/bash"
    directives = [line for line in lines if line.startswith("#SBATCH")]
    # SLURM reads none after the first command.
    assert lines[1 : 1 + len(directives)] == directives
    options = dict(
        option.partition("=")[::2] for line in directives for option in line.split()[1:]
    )
    assert options["--signal"].startswith("TERM@") and "--requeue" in options
    assert options["--ntasks-per-node"] == "1"
    chips = int(options["--nodes"]) * int(options["--gpus-per-node"])
    assert chips == SLURM_DEVICES


@pytest.mark.parametrize(
    ("run", "status", "queued"),
    [("true", 0, False), (STOPPED, 0, True), ("exit 3", 3, False)],
)
def test_the_batch_job_queues_itself_after_a_signal_and_fails_with_its_run(
    page, scripts, run, status, queued
):
    place, _ = page
    found, calls = place.run(scripts["xl.sbatch"], SPECIALIZE=run)
    assert found == status
    assert (["scontrol", "requeue", "12"] in calls) == queued


def test_the_job_set_has_what_jobset_and_gke_need(page):
    """JobSet v1alpha2: what the page says of the slice, in the fields of its API."""
    found = job_set(page[0])
    assert found["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
    assert found["kind"] == "JobSet"
    assert found["spec"]["failurePolicy"]["maxRestarts"] > 0
    job, pod = pod_of(found)
    [container] = pod["containers"]
    selector = pod["nodeSelector"]
    chips = container["resources"]["limits"]["google.com/tpu"]
    columns, rows = selector["cloud.google.com/gke-tpu-topology"].split("x")
    assert int(columns) * int(rows) == job["parallelism"] * chips == 64
    assert job["completions"] == job["parallelism"]
    # One pod that ends makes JobSet start all of them.
    assert (job["backoffLimit"], pod["restartPolicy"]) == (0, "Never")
    assert {one["name"] for one in container["volumeMounts"]} == {
        one["name"] for one in pod["volumes"]
    }
    assert all(isinstance(value, str) for value in selector.values())
    assert pod["terminationGracePeriodSeconds"] == 120


@pytest.mark.parametrize(("run", "status"), [("true", 0), ("exit 3", 3)])
def test_the_script_of_a_pod_ends_as_its_run(page, scripts, run, status):
    assert page[0].run(scripts["xxl.yaml"], SPECIALIZE=run)[0] == status


def test_a_pod_passes_its_signal_on_waits_for_the_checkpoint_and_fails(page, scripts):
    """Kubernetes signals only the first process of a container, the shell."""
    place, _ = page
    saves = (
        "trap 'sleep 0.3; echo saved > saved; exit 0' TERM; echo > started;"
        "while true; do sleep 0.05; done"
    )
    process = place.start(scripts["xxl.yaml"], SPECIALIZE=saves)
    end = time.monotonic() + 60
    while not (place.folder / "started").exists() and time.monotonic() < end:
        time.sleep(0.02)
    try:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=120)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 1
    assert (place.folder / "saved").exists()


def test_a_slice_that_was_preempted_is_created_again(page):
    """The loop of the page ends when the run is complete, and not before."""
    place, _ = page
    [loop] = [one for one in shell_blocks() if one.text.startswith("until ")]
    run = f"if [[ -e again ]]; then echo done; else touch again; {STOPPED}; fi"
    status, calls = place.run(loop.text, SPECIALIZE=run)
    assert status == 0
    assert sum(call[0] == "specialize" for call in calls) == 2
    assert (
        sum(
            call[:5] == ["gcloud", *"compute tpus tpu-vm delete".split()]
            for call in calls
        )
        == 1
    )
