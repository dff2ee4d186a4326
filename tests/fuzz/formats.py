"""Every file format that the commands read: a valid tiny file, and what reads it.

The files are those of tests/golden/v0_1 and what today's commands make of them. A
reader is a command line, or the function that opens the file where the whole command
would compile a network (`doors`).
"""

import csv
import dataclasses
import gzip
import json
import pathlib
import pickle
import shutil
import tarfile
import tomllib
from collections.abc import Callable, Sequence

import containers
import doors
import pyarrow
import pyarrow.parquet
from mutations import Mutator, json_lines, json_value, raw, tokens

TESTS = pathlib.Path(__file__).parent.parent
GOLDEN = TESTS / "golden" / "v0_1"
CONFIGS = TESTS.parent / "t5x_configs"

Reader = str | Callable[[pathlib.Path], None]

PROBLEMS = "world/gsm8k/train.jsonl"
RECORD = "gsm8k-train-1/0/zero_shot_cot"
ONE = "--processes 1"
STUDENT = "--vocabulary vocabulary.model"
VERIFY = f"corpus verify {ONE} --out OUT/v.jsonl --problems"
BUILD = (
    f"corpus build {ONE} {STUDENT} --demonstrations 1 --shards 1 --out OUT/c --problems"
)
ALIGN = (
    f"corpus align {ONE} {STUDENT} --problems {PROBLEMS} --completions right.jsonl "
    "--out OUT/a.jsonl"
)
WRITE = (
    f"corpus write {ONE} {STUDENT} --problems {PROBLEMS} --aligned aligned.jsonl "
    "--demonstrations 1 --shards 1 --out OUT/c"
)
GSM8K = f"{PROBLEMS} --completions completions.jsonl"
ASK = (
    f"corpus sample --problems {PROBLEMS} --limit 2 --responses OUT/sampled.sqlite "
    "--model m --base_url http://127.0.0.1:9/v1 --n 2 --n_per_request 2 --attempts 1 "
    "--backoff 0.01 --prompt prompt.txt --log_every 60"
)
CONFIG = "config --no_imports --for train --gin.MODEL_DIR=new --gin_file"
PLAIN = """from __gin__ import dynamic_registration
from specialize.inference import spec as inference_spec
from specialize.student.network import architecture
from specialize.student.network import transformer

# Lengths, in tokens.
LENGTH = 32
DTYPE = 'float32'

transformer.Transformer.config = @sized/architecture.T5Config()
architecture.T5Config:
  vocab_size = 256
  emb_dim = 2
  num_heads = 1
  num_encoder_layers = 1
  num_decoder_layers = 1
  head_dim = 2
  mlp_dim = 4
  mlp_activations = ('gelu', 'linear')
  dtype = %DTYPE
sized/architecture.T5Config.dropout_rate = 0.1
inference_spec.DecodingSpec:
  input_length = %LENGTH
  output_length = %LENGTH
  temperature = 1.0
"""
XML = tokens(
    *("&lt;", "&x;", "<!DOCTYPE a [<!ENTITY x 'y'>]>", "<![CDATA[", "<a>" * 5000),
    *("</Problem>", "<Problem>", "&#0;", "&#xD800;", "<?x?>", "xmlns='a'"),
)
GIN = tokens(
    *("include 'plain.gin'\n", "import os.path\n", "@subprocess.getoutput()", "%A"),
    *("A = %A\n", "A = (%B, %B)\nB = (%A, %A)\n", "(" * 300, "[" * 5000, "}", "'''"),
    *("%gin.REQUIRED", "a/b/c.d = 1\n", "x.y.z:\n", "1e999", "9" * 5000, "-", "\\"),
    *("b'x'", "{1, 2}", "1j", "...", "{1: {2: 3}}", "-1e999", "0x1F", "'a' 'b'"),
    *("import no_such_module_x\n", "\n  ", "#", "None", "lambda: 0", "@", "=", "\f"),
)
TOML = tokens(
    *("[", "]", "[[", "]]", "=", "'", '"', '"""', "\\u0000", "#", ".", "\n[fields]\n"),
    *("name = 1", "{question}", "{{", "}", "{}", "{@file}", "{a.b}", "{x|sentence}"),
    *("(", "(?P<a>", "(a+)+$", "x{9999}", "[", "\\", "(?s)", "judge = 'x.py:f'\n"),
    *(
        "number",
        "choice",
        "words",
        "yes_no",
        "text",
        "1e999",
        "nan",
        "true",
        "2026-1-1",
    ),
    *("[subtasks]\n", "train", "{subtask}", "a = " + "[" * 5000, "x = " + "9" * 5000),
)
CSV = tokens(
    *('"', '""', ",", "\t", ";", "\n", "\r", '"a\nb"', "," * 300, "km", "=1+1")
)
PROMPT = tokens("\n\nQ: ", "\nA:", "the answer is ", "-----", "canary\n", "Question: ")


@dataclasses.dataclass(frozen=True)
class Format:
    """A file format.

    Attributes:
        name: its name, in the ids of the tests.
        files: (file or pattern, mutator) of what is mutated.
        readers: command lines, of which OUT is the folder of outputs; or functions.
        copied: (source, place in OUT) of outputs that exist already; the source may be
            what is mutated.
        prepare: makes a mutated file consistent with the others, such as a checksum.
        named: whether a refusal must name the file or a folder of it.
        share: mutations per thousand of all.
        statuses: exit statuses that a command may have.
        changes: whether a reader may rewrite the copied outputs although it refuses.
        also: other words, one of which a refusal may have instead of a name.
    """

    name: str
    files: Sequence[tuple[str, Mutator]]
    readers: Sequence[Reader]
    copied: Sequence[tuple[str, str]] = ()
    prepare: Callable[[pathlib.Path], None] | None = None
    named: bool = True
    share: int = 20
    statuses: tuple[int, ...] = (0, 2)
    changes: bool = False
    also: tuple[str, ...] = ()


def judged(name: str, prompt: str = "") -> str:
    return (
        f"evaluate --predictions of/{name}{prompt}.jsonl --benchmarks world "
        "--split all --json OUT/e.json"
    )


def own(task: str, problems: str) -> list[str]:
    """Commands that read a task of one's own and a file of its questions."""
    return [
        f"{VERIFY} own/{problems} --task own/{task} --completions own/answers.jsonl",
        f"evaluate --predictions own/predictions.jsonl --tasks own/{task} --split all "
        "--json OUT/e.json",
    ]


FORMATS = [
    Format("task", [("own/trips.toml", TOML)], own("trips.toml", "q.csv"), share=40),
    Format("task-json", [("own/trips.json", json_value)], own("trips.json", "q.csv")),
    Format(
        "task-options",
        [("own/picks.toml", TOML)],
        [f"{VERIFY} own/picks.jsonl --task own/picks.toml --completions own/abc.jsonl"],
    ),
    Format("csv", [("own/q.csv", CSV)], own("trips.toml", "q.csv"), share=40),
    Format("tsv", [("own/q.tsv", CSV)], own("trips-tsv.toml", "q.tsv"), share=10),
    Format(
        "parquet-of-task",
        [("own/q.parquet", raw)],
        own("trips-parquet.toml", "q.parquet"),
        share=30,
    ),
    Format(
        "predictions-of-lm-eval",
        [("own/samples_trips.jsonl", json_lines)],
        [
            "evaluate --predictions own/samples_trips.jsonl --tasks own/trips.toml "
            "--split all --json OUT/e.json"
        ],
        share=30,
    ),
    Format(
        "gsm8k", [(PROBLEMS, json_lines)], [f"{VERIFY} {GSM8K}", f"{BUILD} {GSM8K}"]
    ),
    Format("gsm8k-test", [("world/gsm8k/test.jsonl", json_lines)], [judged("gsm8k")]),
    *(
        Format(
            name,
            [(file, mutator)],
            [
                judged(name),
                f"{VERIFY} {file} --dataset {name} --completions "
                f"of/{name}.answers.jsonl",
            ],
        )
        for name, file, mutator in (
            ("multiarith", "world/multiarith/MultiArith.json", json_value),
            ("svamp", "world/svamp/SVAMP.json", json_value),
            ("asdiv", "world/asdiv/ASDiv.xml", XML),
        )
    ),
    Format(
        "bbh",
        [("world/bbh/bbh/*.json", json_value)],
        [
            judged("bbh"),
            f"{VERIFY} world/bbh/bbh/turning.json --dataset bbh "
            "--completions of/bbh.answers.jsonl --answer_type yes_no",
        ],
        also=("bbh",),
        share=15,
    ),
    Format(
        "bbh-prompts",
        [("world/bbh/cot-prompts/*.txt", PROMPT)],
        [judged("bbh", ".few"), judged("bbh", ".few_answers")],
    ),
    Format(
        "demonstrations",
        [("pool.jsonl", json_lines)],
        [f"{BUILD} {GSM8K} --demonstrations_from pool.jsonl"],
    ),
    Format(
        "completions",
        [("completions.jsonl", json_lines)],
        [
            f"{VERIFY} {GSM8K} --rejected OUT/r.jsonl --near_duplicates 0.9",
            f"{BUILD} {GSM8K} --teacher t",
            f"corpus inspect --problems {GSM8K} {STUDENT} --id gsm8k-train-0/0",
        ],
        share=40,
    ),
    Format(
        "completions-gz",
        [("completions.jsonl.gz", containers.gzipped(json_lines))],
        [f"{VERIFY} {GSM8K}.gz", f"{BUILD} {GSM8K}.gz --teacher t"],
    ),
    Format(
        "dump",
        [("dump.jsonl", json_lines)],
        [
            f"{VERIFY} {PROBLEMS} --completions dump.jsonl",
            f"{BUILD} {PROBLEMS} --completions dump.jsonl --teacher t",
        ],
    ),
    Format(
        "card",
        [("*.jsonl.card.json", json_value)],
        [
            f"{VERIFY} {GSM8K}",
            ALIGN,
            WRITE,
        ],
    ),
    Format(
        "verified",
        [("right.jsonl", json_lines)],
        [ALIGN],
    ),
    Format(
        "aligned",
        [("aligned.jsonl", json_lines)],
        [WRITE],
        share=40,
    ),
    Format(
        "vocabulary",
        [("vocabulary.model", containers.protobuf)],
        [
            f"{BUILD} {GSM8K} --formats zero_shot_cot",
            f"corpus inspect --problems {GSM8K} {STUDENT} --id gsm8k-train-0/0 "
            "--html OUT/i.html",
            "convert --source run/checkpoints/2 --target OUT/hf "
            "--vocabulary vocabulary.model",
        ],
        share=4,
    ),
    Format(
        "responses",
        [("responses.sqlite", containers.database)],
        ["corpus export --responses responses.sqlite --out OUT/x.jsonl"],
        share=60,
    ),
    Format(
        "responses-resumed",
        [("sampled.sqlite", containers.database)],
        [ASK],
        copied=[("sampled.sqlite", "sampled.sqlite")],
        statuses=(0, 1, 2),
        changes=True,
        share=4,
        also=(
            "--base_url",
        ),  # what it lacks is asked for, of a server that is not there
    ),
    Format(
        "prompt-prefix",
        [("prompt.txt", PROMPT)],
        [ASK],
        copied=[("sampled.sqlite", "sampled.sqlite")],
        statuses=(0, 1, 2),
        changes=True,
        named=False,
        share=3,
    ),
    Format(
        "corpus-manifest",
        [("corpus/corpus.json", json_value)],
        [
            "corpus stats --corpus corpus",
            "corpus stats --corpus corpus --json",
            f"corpus inspect --corpus corpus {STUDENT} --html OUT/i.html",
            f"corpus inspect --corpus corpus {STUDENT} --index 3 --problems {GSM8K}",
            doors.read_corpus,
        ],
        share=60,
    ),
    Format(
        "shards",
        [("corpus/*.tfrecord.gz", containers.records)],
        [
            f"corpus inspect --corpus corpus {STUDENT}",
            f"corpus inspect --corpus corpus {STUDENT} --html OUT/i.html --index 2",
            f"corpus inspect --corpus corpus {STUDENT} --id {RECORD}",
            "corpus stats --corpus corpus",
            doors.read_corpus,
        ],
        prepare=doors.seal_corpus,
        share=25,
    ),
    Format(
        "marker",
        [("corpus/specialize.json", json_value)],
        [f"{BUILD} {GSM8K} --replace"],
        copied=[("corpus", "c")],
    ),
    Format(
        "marker-of-run",
        [("run/specialize.json", json_value)],
        ["report run --out OUT/r.md", doors.claim_run],
        share=5,
    ),
    Format(
        "released",
        [("released.pkl", containers.pickled)],
        [
            f"corpus import-released --pickles released.pkl {STUDENT} {ONE} --shards 1 "
            f"--out OUT/c --problems {PROBLEMS}"
        ],
        share=35,
    ),
    Format(
        "predictions",
        [("of/*.jsonl", json_lines)],
        [judged(name) for name in ("gsm8k", "svamp")],
    ),
    Format(
        "results",
        [("evaluation/results.json", json_value)],
        [
            "report evaluation --out OUT/r.md",
            "report teacher.json --base evaluation/results.json --out OUT/r.html",
            judged("gsm8k") + " --base evaluation/results.json",
        ],
        share=20,
    ),
    Format(
        "judged",
        [("evaluation/*.jsonl", json_lines)],
        [
            "report evaluation --base evaluation --out OUT/r.md",
            "report evaluation --base teacher.json --out OUT/r.html",
        ],
        share=10,
    ),
    Format(
        "metrics",
        [("run/metrics.jsonl", json_lines)],
        ["report run --out OUT/r.md", "report run --out OUT/r.html", doors.resume_log],
        copied=[("run/metrics.jsonl", "metrics.jsonl")],
        changes=True,
        share=30,
    ),
    Format(
        "configuration",
        [("run/config.json", json_value)],
        [
            "report run --out OUT/r.md",
            "convert --source run/checkpoints/2",
            "convert --source run --target OUT/hf",
        ],
        also=("run",),
        share=3,
    ),
    Format(
        "manifest-of-report",
        [("corpus/corpus.json", json_value)],
        ["report run --out OUT/r.md"],
        share=10,
    ),
    Format("prompts", [("prompts.*", json_lines)], [doors.read_prompts], share=80),
    Format(
        "decoded",
        [("decoded.jsonl", json_lines)],
        [doors.go_on_decoding],
        copied=[("decoded.jsonl", "decoded.jsonl")],
        share=80,
    ),
    Format(
        "hf-config",
        [("hf/config.json", json_value), ("hf/generation_config.json", json_value)],
        ["convert --source hf --target OUT/t5x", "convert --source hf", doors.load_hf],
        share=20,
    ),
    Format(
        "safetensors",
        [("hf/model.safetensors", containers.safetensors)],
        ["convert --source hf --target OUT/t5x --to t5x", "convert --source hf"],
        share=25,
    ),
    Format(
        "safetensors-index",
        [
            ("parts/model.safetensors.index.json", json_value),
            ("parts/*.safetensors", containers.safetensors),
        ],
        ["convert --source parts --target OUT/hf --to hf", "convert --source parts"],
    ),
    Format(
        "peft",
        [
            ("peft/adapter_config.json", json_value),
            ("peft/adapter_model.safetensors", containers.safetensors),
        ],
        [
            "convert --source peft --target OUT/hf --to hf",
            "convert --source peft",
            "convert --source peft --base hf --target OUT/peft --to peft",
        ],
        share=15,
    ),
    Format(
        "tokenizer",
        [
            ("tokens/added_tokens.json", json_value),
            ("tokens/tokenizer_config.json", json_value),
            ("tokens/tokenizer.json", json_value),
            ("tokens/special_tokens_map.json", json_value),
            ("tokens/spiece.model", containers.protobuf),
        ],
        [
            "convert --source tokens --target OUT/hf --to hf --rows 250",
            "convert --source tokens --target OUT/hf --to hf",
        ],
        share=8,
    ),
    Format(
        "t5x",
        [("t5x/*/checkpoint", containers.packed)],
        ["convert --source t5x --target OUT/hf", "convert --source t5x"],
        share=40,
    ),
    Format(
        "zarr",
        [("t5x/*/*/.zarray", json_value), ("t5x/*/*/0*", raw)],
        ["convert --source t5x --target OUT/hf", "convert --source t5x"],
        share=25,
    ),
    Format(
        "orbax",
        [
            ("orbax/*/state/_METADATA", json_value),
            ("orbax/*/state/manifest.ocdbt", raw),
            ("orbax/*/state/**/d/*", raw),
        ],
        ["convert --source orbax --target OUT/hf", "convert --source orbax"],
        share=10,
    ),
    Format(
        "checkpoint",
        [
            ("run/checkpoints/2/metadata/metadata", containers.sealed),
            ("run/checkpoints/2/_CHECKPOINT_METADATA", json_value),
            ("run/checkpoints/2/state/_METADATA", json_value),
            ("run/checkpoints/2/state/_sharding", json_value),
            ("run/checkpoints/2/state/array_metadatas/*", json_value),
            ("run/checkpoints/2/state/**/manifest.ocdbt", raw),
            ("run/checkpoints/2/state/**/d/*", raw),
        ],
        ["convert --source run --target OUT/hf", doors.read_step],
        share=3,
    ),
    Format(
        "examples",
        [
            ("examples/*/examples.json", json_value),
            ("examples/*/*.bin", containers.numbers),
            ("examples/*/specialize.json", json_value),
        ],
        [doors.make_batch],
        share=35,
    ),
    Format(
        "gin",
        [("golden.gin", GIN), ("t5x_configs/runs/*.gin", GIN)],
        [f"{CONFIG} golden.gin", f"{CONFIG} golden.gin --json"],
        named=False,
        share=15,
    ),
    Format(
        "gin-imported",
        [("plain.gin", GIN)],
        ["config --gin_file plain.gin", doors.give_to_gin],
        named=False,
        share=50,
    ),
    Format(
        "plan-cache", [("cache/plan.json", json_value)], [doors.read_plan], share=10
    ),
    Format(
        "parquet",
        [("hub/main/test-0.parquet", raw)],
        [doors.read_parquet],
        also=("hub:x/y",),
        share=20,
    ),
]


def make(root: pathlib.Path) -> None:
    """Writes a valid file of every format."""
    shutil.copytree(GOLDEN, root, dirs_exist_ok=True)
    with tarfile.open(root / "run.tar.gz") as archive:
        archive.extractall(root)
    for name in ("run.tar.gz", "recorded.json"):
        (root / name).unlink()
    (root / "prompt.txt").write_text(
        "Question: 2 and 2?\nLet's think step by step\n2 + 2 = 4.\nThe answer is 4\n"
    )
    shutil.copy(root / PROBLEMS, root / "pool.jsonl")
    data = (root / "completions.jsonl").read_bytes()
    (root / "completions.jsonl.gz").write_bytes(gzip.compress(data, mtime=0))
    shutil.copy(
        root / "completions.jsonl.card.json", root / "completions.jsonl.gz.card.json"
    )
    _write_own(root / "own")
    _write_gin(root)
    _write_benchmarks(root / "world")
    _write_answers(root)
    _write_dump(root)
    _write_prompts(root)
    (root / "released.pkl").write_bytes(
        pickle.dumps(doors.released_entries(root / "vocabulary.model"))
    )
    doors.write_sampled(root)
    doors.write_weights(root)
    doors.write_adapters(root)
    doors.write_parquet(root)


TRIPS = """# Trips
name = "trips"
licence = "mine"
[files]
train = "none.csv"
test = "q.csv"
[fields]
id = "n"
question = "How long is {trip|sentence}"
answer = { from = "km", pattern = '[0-9.]+ *km' }
rationale = { from = "why", remove = ["<<[^<>]*>>"], default = "{km}" }
[answer]
type = "number"
[formats]
zero_shot_cot = "Trip: {question}\\nReason."
closing = "It is {answer}."
separator = "\\n--\\n"
"""
PICKS = """name = "picks"
files.train = "picks.jsonl"
[fields]
question = "{q.text}"
choices = { from = "o", template = "{label}. {choice}", first = 1 }
answer = { from = "a", values = { x = "green" } }
[answer]
type = "choice"
"""


def _write_own(folder: pathlib.Path) -> None:
    """Tasks of one's own, their questions and answers."""
    folder.mkdir()
    rows = [
        {"n": n, "trip": f"A to B, {n} times", "km": f"{n + 1}.5 km", "why": "So."}
        for n in range(4)
    ]
    for name, sign in (("q.csv", ","), ("q.tsv", "\t")):
        with open(folder / name, "w", newline="") as stream:
            table = csv.DictWriter(stream, list(rows[0]), delimiter=sign)
            table.writeheader()
            table.writerows(rows)
    pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist(rows), folder / "q.parquet", compression="none"
    )
    (folder / "trips.toml").write_text(TRIPS)
    for kind in ("tsv", "parquet"):
        text = TRIPS.replace("q.csv", f"q.{kind}")
        (folder / f"trips-{kind}.toml").write_text(text)
    (folder / "trips.json").write_text(json.dumps(tomllib.loads(TRIPS)))
    (folder / "picks.toml").write_text(PICKS)
    picks = [
        {"q": {"text": f"Pick {n}."}, "o": ["red", "green", "blue"], "a": "x"}
        for n in range(3)
    ]
    lines = {
        "picks": picks,
        "abc": [
            {
                "problem_id": f"picks-picks-{n}",
                "sample": 0,
                "text": "The answer is (B).",
            }
            for n in range(3)
        ],
        "answers": [
            {"problem_id": f"trips-{n}", "sample": 0, "text": f"It is {n + 1}.5 km."}
            for n in range(4)
        ],
        "predictions": [
            {"suite": "trips", "id": n, "prediction": f"{n + 1}.5"} for n in range(4)
        ],
        "samples_trips": [
            {
                "doc_id": n,
                "doc": rows[n],
                "arguments": {
                    "gen_args_0": {"arg_0": f"Q: {rows[n]['trip']}\nA:", "arg_1": {}}
                },
                "resps": [[f"{n + 1}.5 km"]],
                "filtered_resps": ["x"],
            }
            for n in range(4)
        ],
    }
    for name, records in lines.items():
        text = "".join(json.dumps(record) + "\n" for record in records)
        (folder / f"{name}.jsonl").write_text(text)


def _write_gin(root: pathlib.Path) -> None:
    """A recipe with its run files, and a file that needs no other."""
    old = (root / "golden.gin").read_text()
    (root / "golden.gin").write_text(
        old.replace("import tasks", "import specialize_tasks")
    )
    shutil.copytree(
        CONFIGS, root / "t5x_configs", ignore=shutil.ignore_patterns("__*", "*.py")
    )
    for place in ("models", "recipes"):
        shutil.rmtree(root / "t5x_configs" / place)
    (root / "plain.gin").write_text(PLAIN)


def _write_benchmarks(world: pathlib.Path) -> None:
    for place in ("svamp", "asdiv", "bbh/bbh", "bbh/cot-prompts"):
        (world / place).mkdir(parents=True)
    svamp = [
        {"ID": f"chal-{n}", "Body": f"{n} left", "Question": "Why?", "Answer": n * 1.5}
        for n in range(3)
    ]
    (world / "svamp/SVAMP.json").write_text(json.dumps(svamp))
    problems = "".join(
        f'<Problem ID="n-{n}"><Body>It is {n}.</Body><Question>How many?</Question>'
        f"<Answer>{answer}</Answer></Problem>\n"
        for n, answer in enumerate(("0 (x)", "1 (x)", "3 (ft); 4 (ft)"))
    )
    (world / "asdiv/ASDiv.xml").write_text(
        f'<?xml version="1.0"?>\n<Set><List>\n{problems}</List></Set>\n'
    )
    turning = [{"input": f"Go {n}.", "target": "No", "id": n} for n in range(3)]
    naming = {"answer_type": "words", "examples": [{"input": "b a", "target": "a b"}]}
    (world / "bbh/bbh/turning.json").write_text(json.dumps({"examples": turning}))
    (world / "bbh/bbh/naming.json").write_text(json.dumps(naming))
    for task in ("turning", "naming"):
        (world / f"bbh/cot-prompts/{task}.txt").write_text(
            "BENCHMARK DATA: canary GUID 0\n-----\nTell where one is.\n\nQ: Left.\n"
            "A: Let's think step by step.\nOne stays. So the answer is No.\n\nQ: Right."
            "\nA: Let's think step by step. One returns. So the answer is Yes.\n"
        )


def _write_answers(root: pathlib.Path) -> None:
    """Predictions of every suite in `of/`, and completions of every benchmark."""
    from specialize.corpus.tasks.known import read_problems

    (root / "of").mkdir()
    shutil.copy(root / "predictions.jsonl", root / "of/gsm8k.jsonl")
    files = {
        "multiarith": ["multiarith/MultiArith.json"],
        "svamp": ["svamp/SVAMP.json"],
        "asdiv": ["asdiv/ASDiv.xml"],
        "bbh": ["bbh/bbh/turning.json", "bbh/bbh/naming.json"],
    }
    for name, paths in files.items():
        predictions: dict[str, list[str]] = {"": [], ".few": [], ".few_answers": []}
        prompts = {
            "": "",
            ".few": ":few_shot_cot",
            ".few_answers": ":few_shot_answer_only",
        }
        answers = []
        for path in paths:
            task = f"/{pathlib.Path(path).stem}" if name == "bbh" else ""
            for problem in read_problems(root / "world" / path, name):
                said = f"So the answer is {problem.answers[0]}."
                for kind, prompt in prompts.items():
                    line = {"suite": name + task + prompt, "id": problem.id}
                    predictions[kind].append(json.dumps(line | {"prediction": said}))
                if path == paths[0]:
                    answers.append(
                        json.dumps(
                            {"problem_id": problem.id, "sample": 0, "text": said}
                        )
                    )
        for kind, found in predictions.items():
            if not kind or name == "bbh":
                (root / f"of/{name}{kind}.jsonl").write_text("\n".join(found) + "\n")
        (root / f"of/{name}.answers.jsonl").write_text("\n".join(answers) + "\n")


def _write_dump(root: pathlib.Path) -> None:
    from specialize.corpus.tasks.known import read_problems

    lines = []
    for problem in read_problems(root / PROBLEMS, "gsm8k"):
        words = [" step", "\n", "The", " answer", " is", f" {problem.answers[0]}"]
        words += ["\n", "\n"]
        steps = [[[word, 0.5], [f"{word}x", 0.25]] for word in words]
        sample = {"text": "".join(words), "steps": steps}
        dump = {"question": f"Question 0: {problem.question}\n", "samples": [sample]}
        lines.append(json.dumps(dump) + "\n")
    (root / "dump.jsonl").write_text("".join(lines))


def _write_prompts(root: pathlib.Path) -> None:
    prompts = [
        {"input": f"Q: What is {n}?\nA:", "id": f"p{n}", "x": [n]} for n in range(3)
    ]
    text = "".join(json.dumps(one) + "\n" for one in prompts)
    (root / "prompts.jsonl").write_text(text)
    (root / "prompts.txt").write_text('{"input": 1}\n"Q: What is 1?"\n[2]\n')
    (place,) = (root / "evaluation/decoded").iterdir()
    shutil.copy(place, root / "decoded.jsonl")
    (root / "cache").mkdir()
    doors.write_plan(root / "cache/plan.json")
