"""What the documentation says to type can be typed.

A fenced block of shell commands carries a tag behind its language:

    ```bash run                   executed here, as it stands
    ```bash run tiny: A=1 X->Y    executed with gin value A = 1 and with Y for X
    ```bash needs-tpu             not executed: what it needs
    ```bash form                  not executed: a form with gaps (...)

Each page is a shell session of its own, in a folder beside `../shared/data`.
"""

import dataclasses
import gzip
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PAGES = ("README.md", "CONTRIBUTING.md") + tuple(
    str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").rglob("*.md"))
)
NEEDS = {
    "needs-beam": "the extra 'beam'",
    "needs-cluster": "several machines",
    "needs-data": "files that are not public",
    "needs-gpu": "a GPU",
    "needs-libtpu": "the extra 'plan'",
    "needs-network": "a package index, a hub or a bucket",
    "needs-runs": "runs that are not tiny",
    "needs-t5x": "T5X (tests/t5x runs them)",
    "needs-teacher": "a served model (tests/corpus samples from one)",
    "needs-torch": "torch",
    "needs-tpu": "a TPU",
    "needs-weights": "published weights",
}
# What a shell line begins with; indented, such a line escapes the tags.
COMMANDS = ("specialize", "python", "python3", "pip", "make", "gcloud", "export")


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block: where it stands, its info string's words, its text."""

    page: str
    line: int
    info: str
    text: str

    @property
    def tag(self) -> str:
        """The word behind the language."""
        return (self.info.split() + ["", ""])[1]

    @property
    def tiny(self) -> list[str]:
        """What is said behind "tiny:"."""
        return self.info.partition("tiny:")[2].split()


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    found, opened, text = [], None, []
    for number, line in enumerate((ROOT / page).read_text().splitlines(), 1):
        if line.lstrip().startswith("```"):
            if opened is None:
                opened, text = (number, line.strip().removeprefix("```")), []
            else:
                found.append(Block(page, *opened, "\n".join(text) + "\n"))
                opened = None
        elif opened is not None:
            text.append(line)
    assert opened is None, f"{page}: the block of line {opened} is not closed"
    return found


@pytest.mark.parametrize("page", PAGES)
def test_every_block_of_commands_says_what_it_needs(page):
    for block in blocks(page):
        language = block.info.split()[0] if block.info else ""
        at = f"{page}:{block.line}: ```{block.info}"
        assert language, f"{at} names no language"
        if language in ("bash", "sh", "shell", "console"):
            assert block.tag in ("run", "form", *NEEDS), f"{at} carries no known tag"
            assert ("..." in block.text) <= (block.tag != "run"), f"{at} has gaps"


@pytest.mark.parametrize("page", PAGES)
def test_no_command_hides_in_an_indented_block(page):
    inside = False
    for number, line in enumerate((ROOT / page).read_text().splitlines(), 1):
        if line.lstrip().startswith("```"):
            inside = not inside
        found = re.match(r" {4,}([A-Za-z0-9_]+) ", line)
        if found and not inside:
            assert found[1] not in COMMANDS, f"{page}:{number}: {line.strip()}"


def test_tags_are_read():
    block = Block("page", 1, "bash run tiny: STEPS=2 16->1", "specialize train\n")
    assert block.tag == "run" and block.tiny == ["STEPS=2", "16->1"]
    assert Block("page", 1, "bash", "ls\n").tag == ""


# ---- Running them --------------------------------------------------------------------

# `specialize`, as a shell finds it; values of "tiny:" go to what reads gin files.
SHIM = """#!/bin/bash
case "$1" in
    train|evaluate|select|infer) exec {python} -m specialize "$@" $TINY ;;
    *) exec {python} -m specialize "$@" ;;
esac
"""
PROBLEMS = 40


def write_samples(problems: list[dict[str, str]], path: pathlib.Path) -> None:
    """Completions as a server would give them: the human rationale, word by word."""
    lines = []
    for index, problem in enumerate(problems):
        rationale, _, answer = problem["answer"].partition("####")
        text = f"{rationale.strip()} The answer is {answer.strip()}."
        tokens = re.findall(r"\s*\S+", text)
        lines.append(
            {
                "problem_id": f"gsm8k-train-{index}",
                "sample": 3,
                "text": text,
                "tokens": tokens,
                "token_logprobs": [-0.1] * len(tokens),
                "top_logprobs": [{token: -0.1} for token in tokens],
                "finish_reason": "stop",
            }
        )
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture(scope="module")
def data(shared_data, tmp_path_factory):
    """The owners' files, but for GSM8K's training problems: a handful of them."""
    folder = tmp_path_factory.mktemp("documented") / "shared" / "data"
    (folder / "gsm8k").mkdir(parents=True)
    for path in shared_data.iterdir():
        if path.name != "gsm8k":
            (folder / path.name).symlink_to(path)
    for path in (shared_data / "gsm8k").iterdir():
        if path.name != "train.jsonl":
            (folder / "gsm8k" / path.name).symlink_to(path)
    with open(shared_data / "gsm8k" / "train.jsonl", encoding="utf-8") as file:
        lines = [line for _, line in zip(range(PROBLEMS), file, strict=False)]
    (folder / "gsm8k" / "train.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


def session(data: pathlib.Path, name: str) -> tuple[pathlib.Path, dict[str, str]]:
    """A project folder with the files the pages speak of, and a shell's environment."""
    place = data.parent.parent / name
    (place / "bin").mkdir(parents=True)
    shim = place / "bin" / "specialize"
    shim.write_text(SHIM.format(python=sys.executable))
    shim.chmod(0o755)
    python = place / "bin" / "python"  # a link would not know its environment
    python.write_text(f'#!/bin/bash\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    (place / "benchmarks").symlink_to(ROOT / "benchmarks")
    (place / "t5x_configs").symlink_to(ROOT / "t5x_configs")
    (place / "train.jsonl").symlink_to(data / "gsm8k" / "train.jsonl")
    (place / "spiece.model").symlink_to(data / "t5" / "spiece.model")
    problems = [json.loads(line) for line in open(place / "train.jsonl")]
    write_samples(problems, place / "samples.jsonl")
    with gzip.open(place / "samples.jsonl.gz", "wb") as file:
        file.write((place / "samples.jsonl").read_bytes())
    questions = (data / "gsm8k" / "test.jsonl").read_text().count("\n")
    answers = [
        {"suite": "gsm8k", "id": f"gsm8k-test-{i}", "prediction": "The answer is 18."}
        for i in range(questions)
    ]
    (place / "outputs.jsonl").write_text("\n".join(map(json.dumps, answers)))
    kept = {k: v for k, v in os.environ.items() if k not in ("JAX_NUM_CPU_DEVICES",)}
    environment = kept | {
        "PATH": f"{place / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "SPECIALIZE_CACHE": str(place / "cache"),
    }
    return place, environment


def corpus_commands() -> str:
    """The README's first command, on whose corpus other pages train."""
    text = next(block.text for block in blocks("README.md") if block.tag == "run")
    return text.partition("\n\n")[0]


RUNNABLE = [page for page in PAGES if any(b.tag == "run" for b in blocks(page))]


@pytest.mark.slow
@pytest.mark.parametrize("page", RUNNABLE)
def test_what_a_page_says_to_type_runs(page, data):
    place, environment = session(data, page.replace("/", "-"))
    typed = [block for block in blocks(page) if block.tag == "run"]
    text = "".join(block.text for block in typed)
    if "runs/quickstart" in text:
        few = "specialize quickstart --out runs/quickstart --steps 2\n"
        execute(few, place, environment, page)
    if "runs/corpus" in text and "corpus build" not in text:
        execute(corpus_commands(), place, environment, page)
    for block in typed:
        text, values = block.text, []
        for word in block.tiny:
            old, arrow, new = word.partition("->")
            if arrow:
                assert re.search(rf"\b{old}\b", text), f"{page}: no {old}"
                text = re.sub(rf"\b{old}\b", new, text)
            else:
                values.append(f"--gin.{word}")
        tiny = environment | {"TINY": " ".join(values)}
        execute(text, place, tiny, f"{page}:{block.line}")


def execute(text, place, environment, at):
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, (
        f"{at}\n{text}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
    )
