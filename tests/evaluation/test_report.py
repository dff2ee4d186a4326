import html.parser
import json
import shutil

import pytest

from specialize.errors import InputError
from specialize.evaluation.report import figures
from specialize.evaluation.report.report import report
from specialize.evaluation.report.runs import read_run
from specialize.evaluation.results import Results

VOID = {"meta", "link", "br", "hr", "img", "input", "circle", "line", "rect"}


def score(correct, n):
    share = correct / n
    return {
        "accuracy": share,
        "n": n,
        "low": max(0.0, share - 0.1),
        "high": min(1.0, share + 0.1),
        "how": {"marked": n - 1, "last": 1, "none": 0},
        "ceiling": {"accuracy": 1.0},
    }


def write_run(folder, name, right, *, step, parameters, lines=True):
    run = folder / name
    evaluation = run / "evaluation"
    evaluation.mkdir(parents=True)
    keys = ("gsm8k:zero_shot_cot", "gsm8k:few_shot_cot", "bbh/navigate:zero_shot_cot")
    suites = {key: score(right, 10) for key in keys}
    predictions = {}
    for key in keys:
        predictions[key] = f"{key.replace('/', '.').replace(':', '.')}.jsonl"
        with open(evaluation / predictions[key], "w") as file:
            for index in range(10):
                line = {
                    "id": f"q{index}",
                    "prediction": f"<b>{name}</b> says {index}",
                    "correct": index < right,
                    "value": str(index),
                    "how": "marked",
                    "golds": ["7"],
                    "question": f"How many? & {index}",
                    "rationale": "Count them.",
                }
                file.write(json.dumps(line) + "\n")
    Results(
        {"checkpoint": str(run), "step": step, "parameters": parameters},
        {"rule": "exact"},
        suites,
        {"bbh:zero_shot_cot": {**score(right, 10), "suites": 1}},
        predictions,
    ).save(evaluation / "results.json")
    if lines:
        with open(run / "metrics.jsonl", "w") as file:
            for at in range(1, 60):
                train = {"loss": 3 / at, "kl": 2 / at, "zero_shot_cot/kl": 1 / at}
                file.write(json.dumps({"step": at * 10, "train": train}) + "\n")
    return run


@pytest.fixture
def runs(tmp_path):
    base = write_run(tmp_path, "base", 3, step=0, parameters=1e6, lines=False)
    small = write_run(tmp_path, "small", 7, step=600, parameters=1e6)
    large = write_run(tmp_path, "large", 8, step=600, parameters=4e6)
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "corpus.json").write_text(
        json.dumps(
            {
                "version": 1,
                "fingerprint": {"teacher": "codex", "k": 5},
                "funnel": {
                    "read": 100,
                    "verified": 70,
                    "aligned": 69,
                    "kept": 69,
                    "reasoned": 37,
                    "rejected": {"wrong_answer": 30, "unaligned": 1},
                },
                "formats": {"zero_shot_cot": {"records": 69}},
            }
        )
    )
    values = [{"name": "CORPUS_DIR", "value": str(corpus)}]
    (small / "config.json").write_text(json.dumps({"values": values}))
    return base, small, large


def test_every_corpus_of_a_mixture_is_shown(runs, tmp_path):
    _, small, _ = runs
    other = shutil.copytree(tmp_path / "corpus", tmp_path / "other")
    manifest = json.loads((other / "corpus.json").read_text())
    manifest["fingerprint"]["teacher"] = "someone"
    (other / "corpus.json").write_text(json.dumps(manifest))
    shares = {str(tmp_path / "corpus"): 9, f"{other}:zero_shot": 1, "more.jsonl": 1}
    values = [{"name": "MIXTURE_OR_TASK_NAME", "value": shares}]
    (small / "config.json").write_text(json.dumps({"values": values}))
    report([small], tmp_path / "r.html", command="specialize report")
    text = (tmp_path / "r.html").read_text()
    parsed(text)
    for name in (tmp_path / "corpus", other):
        assert f"{name}: Samples at each stage" in text
    assert "someone" in text and "codex" in text and "manifest" not in text


def test_samples_with_reasoning_apart_are_shown_where_there_are_some(runs, tmp_path):
    _, small, _ = runs
    report([small], tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    assert "with reasoning apart" in text and ">37<" in text.replace(" ", "")
    path = tmp_path / "corpus" / "corpus.json"
    manifest = json.loads(path.read_text())
    del manifest["funnel"]["reasoned"]
    path.write_text(json.dumps(manifest))
    report([small], tmp_path / "r.html")
    assert "with reasoning apart" not in (tmp_path / "r.html").read_text()


def test_texts_that_a_student_wrote_in_training_are_drawn(runs, tmp_path):
    _, small, _ = runs
    report([small], tmp_path / "r.html")
    assert "that the student wrote" not in (tmp_path / "r.html").read_text()
    with open(small / "metrics.jsonl", "a", encoding="utf-8") as file:
        for at in (61, 62, 63):
            own = {"share": 0.5, "ended": 0.9, "length": 30 + at, "teacher_tokens": 40}
            train = {f"on_policy/{name}": value for name, value in own.items()}
            file.write(json.dumps({"step": at * 10, "train": train}) + "\n")
    report([small], tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    parsed(text)
    assert "Texts that the student wrote" in text
    assert "Tokens of the texts that the student wrote" in text
    assert "did not fit" not in text  # no such metric


class Balance(html.parser.HTMLParser):
    """Counts tags, so that a page with an unclosed element is found."""

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.urls = [], [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.urls += [v for k, v in attrs if k in ("src", "href") and v]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def parsed(text):
    parser = Balance()
    parser.feed(text)
    assert parser.open == []
    return parser


def test_the_page_is_balanced_and_asks_nothing_of_the_network(runs, tmp_path):
    base, small, large = runs
    report([small, large], tmp_path / "r.html", base=base, command="specialize report")
    text = (tmp_path / "r.html").read_text()
    page = parsed(text)
    assert page.urls == [] and "http" not in text and "script" not in page.seen
    assert page.seen.count("svg") >= 8
    assert "Not shown" not in text.replace("Not shown: large", "")


def test_texts_of_models_are_escaped(runs, tmp_path):
    base, small, _ = runs
    report([small], tmp_path / "r.html", base=base)
    text = (tmp_path / "r.html").read_text()
    assert "<b>small</b>" not in text and "&lt;b&gt;small&lt;/b&gt;" in text


def test_the_difference_is_paired_and_tested(runs, tmp_path):
    base, small, _ = runs
    report([small], tmp_path / "r.md", base=base)
    text = (tmp_path / "r.md").read_text()
    # 4 won, none lost: exact McNemar 2 * 0.5^4 = 0.125.
    assert "+40.0" in text and "p = 0.125" in text
    assert "| gsm8k zero shot cot | 4 | 0 | 6 |" in text


def test_a_run_with_missing_parts_still_renders_and_says_what_is_missing(tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_text(
        json.dumps({"values": [{"name": "SEED", "value": 0}]})
    )
    report([bare], tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    parsed(text)
    assert text.count("Not shown") >= 7
    assert "specialize evaluate" in text


def test_a_folder_that_is_not_a_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="not a run"):
        read_run(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        read_run(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')  # Hugging Face's
    with pytest.raises(InputError, match="is not a run: its config.json is not one of"):
        read_run(tmp_path)


def test_a_metrics_line_cut_by_a_kill_is_left_out(runs):
    _, small, _ = runs
    with open(small / "metrics.jsonl", "a") as file:
        file.write('{"step": 600, "tra')
    assert read_run(small).training[-1].step == 590


def test_results_of_another_program_are_refused(tmp_path):
    path = tmp_path / "results.json"
    path.write_text('{"accuracy": 1}')
    with pytest.raises(InputError, match="not a results file"):
        Results.load(path)


def test_ticks_are_round_and_inside_the_axis():
    svg = figures.lines(
        [figures.Series("a", [(0.0, 0.013), (7.0, 0.972)])],
        title="t",
        x_title="x",
        y_title="y",
        percent=True,
    )
    parsed(svg)
    assert ">20 %<" in svg and ">80 %<" in svg and ">120 %<" not in svg


def test_points_that_are_not_finite_are_not_drawn():
    series = [figures.Series("a", [(0.0, float("nan")), (1.0, float("inf"))])]
    assert figures.lines(series, title="t", x_title="x", y_title="y") == ""
