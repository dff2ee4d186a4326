"""Writes v0_1/: one small file or folder of every format that version 0.1 wrote.

It was run once, with the code of 0.1 (commit e7ad40d) in a worktree of its own, and is
kept to say how the files came about. It refuses every other version:

    git worktree add ../specialize-0.1 e7ad40d
    PYTHONPATH=../specialize-0.1 python tests/golden/make_v0_1.py

The data are three problems of the miniature world. `recorded.json` holds what 0.1 read
from its own files; docs/formats.md says which test compares it with today's readers.
"""

# ruff: noqa: I001 -- the modules are those of 0.1
import asyncio
import gzip
import io
import json
import os
import pathlib
import re
import shutil
import sys
import tarfile

os.environ |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}

import numpy as np  # noqa: E402
import sentencepiece  # noqa: E402
from specialize.corpus.responses import ResponseStore  # noqa: E402
from specialize.corpus.teachers import Answer, Unusable  # noqa: E402
from specialize.corpus.wire import usable_choices  # noqa: E402

import specialize  # noqa: E402
from specialize import cli  # noqa: E402
from specialize.corpus import miniature, pipeline, sample, shards  # noqa: E402
from specialize.corpus.sampling import Plan  # noqa: E402
from specialize.corpus.vocabulary import Vocabulary  # noqa: E402
from specialize.evaluation.results import Results  # noqa: E402

VERSION = "0.1.0"
OUT = pathlib.Path(__file__).parent / "v0_1"
SEED = 1
TRAIN, TEST, SAMPLES = 3, 4, 2
PIECES = 150
FULL = "gsm8k-train-0/0/zero_shot_cot"  # the record whose every row is recorded
# Kept beside the run: the tests resume with it.
RECIPE = """# The student of tests/golden/v0_1: 686 parameters, four steps.
from __gin__ import dynamic_registration

import tasks
from specialize.student import network

network.T5Config:
  vocab_size = 256
  emb_dim = 2
  num_heads = 1
  num_encoder_layers = 1
  num_decoder_layers = 1
  head_dim = 2
  mlp_dim = 4
  mlp_activations = ('gelu', 'linear')
  logits_via_embedding = True

MIXTURE_OR_TASK_NAME = 'specialize_gsm8k_zero_shot'
TASK_FEATURE_LENGTHS = {
    'inputs': 128,
    'targets': 128,
    'teacher_ids': 128,
    'teacher_probs': 128,
    'teacher_tail': 128,
    'format_id': 128,
}
CORPUS_DIR = 'corpus'
VOCABULARY_PATH = 'vocabulary.model'
BENCHMARKS_DIR = 'world'
TRAIN_STEPS = 4
WARMUP_STEPS = 1
BATCH_SIZE = 4
LEARNING_RATE = 0.05
OPTIMIZER = 'adafactor'
SEED = 1
MESH = {'data': 1, 'fsdp': 1, 'model': 1}
DTYPE = 'float32'
DROPOUT_RATE = 0.0
SCAN_LAYERS = False
REMAT_POLICY = 'none'
CHECKPOINT_PERIOD = 2
LOG_PERIOD = 1
EVAL_PERIOD = 1000
SPLIT = 'all'
INPUT_LENGTH = 128
OUTPUT_LENGTH = 8
EVAL_BATCH_SIZE = 4
"""


def run(*words: str) -> None:
    """Types one command."""
    print("$ specialize", *words)
    status = cli.main(list(words))
    assert status == 0, status


def make_world() -> None:
    """Problems and test questions, and a vocabulary without T5's table of NFKC."""
    miniature.write(
        "all",
        seed=SEED,
        num_train=TRAIN,
        num_test=TEST,
        num_samples=SAMPLES,
        num_pretraining=200,
    )
    for name in ("gsm8k", "multiarith"):
        shutil.copytree(f"all/{name}", f"world/{name}")
    pathlib.Path("spaces.tsv").write_text("A\t20\n9\t20\n")  # white space is a space
    text = pathlib.Path("all/text.txt").read_text(encoding="utf-8").splitlines()
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(re.sub(r"(\d)([.,?:])", r"\1 \2", line) for line in text),
        model_writer=model,
        vocab_size=PIECES,
        hard_vocab_limit=False,
        character_coverage=1.0,
        model_type="bpe",
        normalization_rule_tsv="spaces.tsv",
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
        num_threads=1,
    )
    pathlib.Path("vocabulary.model").write_bytes(model.getvalue())
    shutil.rmtree("all")
    os.remove("spaces.tsv")


class MiniatureTeacher:
    """The world's exact teacher in the layout of OpenAI's completions.

    It gives up the last question, so that the database holds a failure.
    """

    name = miniature.TEACHER_NAME

    def __init__(self) -> None:
        test = miniature.problems(TEST, seed=SEED, prefix="gsm8k-test")
        self._problems = {
            problem.id: problem
            for problem in miniature.problems(
                TRAIN, seed=SEED, prefix="gsm8k-train", exclude=test
            )
        }

    def describe(self) -> dict:
        return {"teacher": self.name, "temperature": 1.0, "top_logprobs": 5}

    async def ask(self, ask) -> Answer:
        if ask.problem_id == f"gsm8k-train-{TRAIN - 1}":
            raise Unusable("refused", "not this one", again=False)
        choices = []
        for index in range(ask.count):
            drawn = miniature.ExactTeacher().sample(
                self._problems[ask.problem_id], ask.first_sample + index, seed=SEED
            )
            choices.append(
                {
                    "index": index,
                    "text": drawn.text,
                    "finish_reason": "stop",
                    "logprobs": {
                        "tokens": [token.token.decode() for token in drawn.tokens],
                        "token_logprobs": [token.logprob for token in drawn.tokens],
                        "top_logprobs": [
                            {text.decode(): value for text, value in token.top[:5]}
                            for token in drawn.tokens
                        ],
                    },
                }
            )
        body = json.dumps({"choices": choices}).encode()
        return Answer(usable_choices(body, ask.problem_id), body, 40, 90, 0.5)

    async def close(self) -> None:
        pass


def make_corpus() -> None:
    """From the teacher's answers to records, every stage's file kept."""
    problems = pipeline.read_problems("world/gsm8k/train.jsonl", "gsm8k")
    asyncio.run(
        sample.run(
            problems,
            MiniatureTeacher(),
            "responses.sqlite",
            Plan(samples=SAMPLES, samples_per_request=SAMPLES, seed=SEED),
            convention="before_temperature",
        )
    )
    asked = ("--problems", "world/gsm8k/train.jsonl", "--processes", "1")
    run(
        *("corpus", "export", "--responses", "responses.sqlite"),
        *("--out", "completions.jsonl"),
    )
    run(
        *("corpus", "verify", *asked, "--completions", "completions.jsonl"),
        *("--out", "right.jsonl"),
    )
    run(
        *("corpus", "align", *asked, "--completions", "right.jsonl"),
        *("--vocabulary", "vocabulary.model", "--out", "aligned.jsonl"),
    )
    run(
        *("corpus", "build", *asked, "--completions", "completions.jsonl"),
        *("--vocabulary", "vocabulary.model", "--demonstrations", "1"),
        *("--shards", "1", "--out", "corpus"),
    )


def make_run() -> dict:
    """Trains four steps, keeps the checkpoint of the second, evaluates and converts."""
    pathlib.Path("golden.gin").write_text(RECIPE)
    recipe = ("--gin_file", "golden.gin")
    run("train", *recipe, "--gin.MODEL_DIR='run'")
    values = {step: parameters(f"run/checkpoints/{step}") for step in (2, 4)}
    shutil.move("run/examples", "examples")
    shutil.rmtree("run/checkpoints/4")
    shutil.rmtree("run/tensorboard")  # nothing of ours reads it
    run(
        *("evaluate", *recipe, "--gin.CHECKPOINT_PATH='run/checkpoints/2'"),
        *("--gin.SUITES=('gsm8k',)", "--gin.OUTPUT_DIR='evaluation'"),
    )
    for name in ("config.gin", "config.json", "operative_config.gin"):
        os.remove(f"evaluation/{name}")  # as those of the run
    run("convert", "--source", "run/checkpoints/2", "--target", "hf", "--to", "hf")
    for path in pathlib.Path("hf").glob("tokenizer*.json"):
        path.unlink()  # 37 kB of the tokenizers library
    return values


def pack_run() -> None:
    """Puts the run into one archive, without the paths of this machine.

    Orbax's 20 files are 180 kB, nearly all of it repeated text.
    """
    here, package = os.getcwd(), os.path.dirname(os.path.dirname(specialize.__file__))
    notes = pathlib.Path("run").rglob("commit_success.txt")  # Orbax looks for the file
    for path in (pathlib.Path("run/config.json"), *notes):
        text = path.read_text(encoding="utf-8").replace(f"{here}/", "")
        path.write_text(text.replace(f"{package}/", ""), encoding="utf-8")

    def anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = entry.mtime = 0
        entry.uname = entry.gname = ""
        return entry

    with tarfile.open("run.tar.gz", "w:gz") as archive:
        archive.add("run", filter=anonymous)


def parameters(folder: str) -> dict:
    """Sum and sum of squares of every parameter."""
    from specialize.checkpoints.opening import open_checkpoint

    found = {}
    for name, tensor in sorted(open_checkpoint(folder).tensors.items()):
        array = np.asarray(tensor.read(), np.float64)
        found[name] = [float(array.sum()), float((array**2).sum())]
    return found


def make_predictions() -> None:
    """The teacher's solutions of the test questions, judged as another model's."""
    lines = []
    for problem in miniature.problems(TEST, seed=SEED, prefix="gsm8k-test"):
        text = miniature.ExactTeacher().sample(problem, 0, seed=SEED).text
        if problem.id == "gsm8k-test-1":
            text = "I do not know."
        line = {"suite": "gsm8k", "id": problem.id, "prediction": text}
        lines.append(json.dumps(line) + "\n")
    pathlib.Path("predictions.jsonl").write_text("".join(lines))
    run(
        *("evaluate", "--predictions", "predictions.jsonl"),
        *("--benchmarks", "world", "--json", "teacher.json"),
    )


def recorded(values: dict) -> dict:
    """What 0.1 reads from what it wrote."""
    from specialize.training.examples import _open

    from specialize.checkpoints.convert import convert

    with ResponseStore("responses.sqlite") as store:
        responses = {
            "settings": store.settings(),
            "convention": store.noted("convention"),
            "usage": list(store.usage()),
            "failures": [list(row) for row in store.failures()],
            "texts": [[c.problem_id, c.sample, c.text] for c in store.completions()],
        }
    records, rows = [], {}
    for record in shards.read_shards("corpus"):
        target = record.target
        probs = np.exp(target.teacher_logprobs.astype(np.float64))
        records.append(
            {
                "id": record.id,
                "inputs": record.inputs,
                "targets": record.targets,
                "input_ids": int(record.input_ids.sum()),
                "target_ids": target.ids.tolist(),
                "origin": target.origin.tolist(),
                "teacher_ids": int(target.teacher_ids.sum()),
                "teacher_probs": float(probs.sum()),
                "tail": float(target.tail.sum()),
            }
        )
        if record.id == FULL:
            rows = {
                "teacher_ids": target.teacher_ids.tolist(),
                "teacher_probs": probs.round(6).tolist(),
                "tail": target.tail.round(6).tolist(),
            }
    examples = {}
    for folder in sorted(pathlib.Path("examples").iterdir()):
        found = _open(folder, "golden")
        examples[folder.name] = {
            "digest": found.digest,
            "counts": dict(found.counts),
            "lengths": found.lengths.tolist(),
            "ids": [found.record_id(index) for index in range(len(found))],
            "sums": {
                name: float(np.asarray(values, np.float64).sum())
                for name, values in found.features.items()
            },
        }
    with open("run/metrics.jsonl", encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    scores = {}
    for path in ("evaluation/results.json", "teacher.json"):
        results = Results.load(path)
        scores[path] = {
            "metrics": results.metrics(),
            "n": results.num_examples,
            "step": results.step,
            "first": results.lines("gsm8k:zero_shot_cot")[0],
        }
    manifest = shards.open_corpus("corpus")
    fingerprints = {
        source: convert(source, None).fingerprint
        for source in ("run/checkpoints/2", "hf")
    }
    return {
        "version": specialize.__version__,
        "fingerprints": fingerprints,
        "responses": responses,
        "corpus": {
            "digest": manifest.fingerprint.digest(),
            "counts": manifest.counts(),
            "funnel": manifest.funnel,
            "records": records,
            "rows": {FULL: rows},
        },
        "examples": examples,
        "parameters": values,
        "losses": {str(line["step"]): line["train"]["loss"] for line in lines},
        "results": scores,
    }


def write_recorded(value: dict) -> None:
    """Writes recorded.json, a line for every record and the like."""
    text = json.dumps(value, indent=1, ensure_ascii=False)
    # Lists of numbers on one line.
    text = re.sub(r"\[[^][{}\"]*\]", lambda found: " ".join(found[0].split()), text)
    pathlib.Path("recorded.json").write_text(text + "\n", encoding="utf-8")


def check() -> None:
    """Nothing is large, and nothing names the machine it was made on."""
    check_paths(pathlib.Path())
    shutil.rmtree("run")
    total = 0
    for path in sorted(p for p in pathlib.Path().rglob("*") if p.is_file()):
        content = path.read_bytes()
        total += len(content)
        print(f"{len(content):7,d}  {len(gzip.compress(content)):6,d}  {path}")
        assert len(content) < 40_000, path
    print(f"{total:7,d}  in all")


def check_paths(folder: pathlib.Path) -> None:
    """No file names the machine it was made on."""
    package = os.path.dirname(os.path.dirname(specialize.__file__))
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        for word in (os.getcwd(), package, os.path.expanduser("~") + "/"):
            assert word.encode() not in path.read_bytes(), (path, word)


def main() -> None:
    """Makes the folder anew."""
    if specialize.__version__ != VERSION:
        sys.exit(f"this is specialize {specialize.__version__}; see the docstring")
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    os.chdir(OUT)
    make_world()
    assert Vocabulary("vocabulary.model").rows == 256
    make_corpus()
    values = make_run()
    make_predictions()
    write_recorded(recorded(values))
    pack_run()
    check()


if __name__ == "__main__":
    main()
