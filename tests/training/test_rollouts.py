"""A run that learns from its own texts: what is learnt, seen, kept and resumed."""

import json
import os
import shutil
import signal
import sys
import threading
import time

import numpy as np
import pytest
import tiny_run
from echo_server import EchoServer
from ports import free_port

from specialize import versions
from specialize.checkpoints.store import CheckpointStore
from specialize.errors import InputError
from specialize.training.loop.resuming import teacher_of
from specialize.training.rollouts import served_teacher
from specialize.training.rollouts.keeping import Keeper
from specialize.training.rollouts.making import read_by_server
from specialize.training.rollouts.mesh_teacher import MeshTeacher
from specialize.training.rollouts.spec import RolloutSpec
from specialize.training.rollouts.windows import nothing
from specialize.training.rollouts.writing import Writer


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher") / "run"
    tiny_run.run(folder, 2, rollouts={}, data={"seed": 9})
    return str(folder)


def run(folder, steps=6, share=0.5, mesh="1", **fields):
    return tiny_run.run(
        folder, steps, mesh=mesh, period=3, log_period=1,
        rollouts={"share": share, "steps": 4, **fields},
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole(teacher, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    return folder, run(folder, teacher=teacher)


def test_the_log_shows_what_the_student_wrote(whole):
    folder, _ = whole
    for line in tiny_run.lines(folder):
        train = line["train"]
        assert 0 < train["on_policy/share"] < 1
        assert 1 <= train["on_policy/length"] <= tiny_run.LENGTHS["targets"]
        assert train["on_policy/teacher_tokens"] == train["on_policy/length"]
        assert train["on_policy/kl"] >= 0 and train["corpus/kl"] >= 0
        assert "on_policy/right" not in train  # no golds are known
    text = (folder / "metrics.jsonl").read_text()
    _, *later = (json.loads(line)["speed"] for line in text.splitlines())
    assert len(later) == 5  # the first step is not timed
    for speed in later:  # the windows begin before steps 1 and 5
        making = speed["writing_seconds"] + speed["scoring_seconds"]
        assert 0 < making < speed["seconds_per_step"]


def test_a_run_within_a_window_reads_its_texts_again(
    whole, teacher, tmp_path, same_parameters, capfd
):
    """Without them it says that it is another run; with them it is the same one."""
    folder, straight = whole
    kept = {file.name for file in (folder / "rollouts").iterdir()}
    assert kept == {"0.npz", "1.npz"}  # checkpoints 3 and 6 are within these windows
    run(tmp_path / "run", 3, teacher=teacher)
    shutil.copytree(tmp_path / "run", tmp_path / "lost")
    shutil.rmtree(tmp_path / "lost" / "rollouts")
    (tmp_path / "run/rollouts/1.npz").write_bytes(b"PK")  # cut by a kill
    capfd.readouterr()
    resumed = run(tmp_path / "run", teacher=teacher)
    assert "differs" not in capfd.readouterr().err
    same_parameters(tiny_run.parameters(resumed), tiny_run.parameters(straight))
    assert tiny_run.lines(tmp_path / "run") == tiny_run.lines(folder)
    run(tmp_path / "lost", 4, teacher=teacher)
    assert "before step 0 are not in the run's folder" in capfd.readouterr().err


def test_texts_that_no_run_resumes_with_are_removed(tmp_path):
    keeper = Keeper(tmp_path, {"seed": 0}, "teacher", lambda: None)
    (tmp_path / "rollouts").mkdir()
    for number in range(3):
        keeper.write(number, "weights", nothing(3))
    keeper.remove_before(2)
    assert [file.name for file in (tmp_path / "rollouts").iterdir()] == ["2.npz"]
    assert keeper.read(2, None) is not None and keeper.read(2, "weights") is not None
    assert keeper.read(2, "others") is None and keeper.read(1, None) is None
    for other in (({"seed": 1}, "teacher"), ({"seed": 0}, "another")):
        assert Keeper(tmp_path, *other, lambda: None).read(2, None) is None
    newer = versions.ROLLOUTS._replace(reads=(2,))  # a later version's
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(versions, "ROLLOUTS", newer)
        keeper.write(2, "weights", nothing(3))
    with pytest.raises(InputError, match="file of rollouts of version 2"):
        keeper.read(2, None)


def test_texts_whose_teacher_is_not_named_are_read_within_their_window(tmp_path):
    """An earlier version did not name it; between windows they are written again."""
    keeper = Keeper(tmp_path, {}, "teacher", lambda: None)
    (tmp_path / "rollouts").mkdir()
    keeper.write(2, "weights", nothing(3))
    path = tmp_path / "rollouts/2.npz"
    with np.load(path) as file:
        arrays = dict(file)
    about = json.loads(str(arrays["about"]))
    del about["teacher"]
    np.savez(path, **arrays | {"about": np.asarray(json.dumps(about))})
    assert keeper.read(2, None) is not None and keeper.read(2, "weights") is None


def test_a_run_without_a_checkpoint_reads_its_texts_to_another_teacher(
    whole, teacher, tmp_path, monkeypatch
):
    """To the same one somewhere else, it does not."""
    real, read = MeshTeacher.read, []
    monkeypatch.setattr(
        MeshTeacher, "read", lambda *given: read.append(1) or real(*given)
    )
    shutil.copytree(whole[0], tmp_path / "run", ignore=lambda *_: ["checkpoints"])
    shutil.copytree(teacher, tmp_path / "moved")
    run(tmp_path / "run", 1, teacher=str(tmp_path / "moved"))
    assert not read
    shutil.rmtree(tmp_path / "run/checkpoints")
    other = tiny_run.base(tmp_path / "other", seed=1, rows=tiny_run.BYTES)
    run(tmp_path / "run", 1, teacher=other)
    assert read


def test_another_teacher_is_another_run(whole, teacher, tmp_path):
    folder, _ = whole
    with pytest.raises(InputError, match="rollouts was .*'share': 0.5.* is .*0.25"):
        run(folder, 8, share=0.25, teacher=teacher)
    with pytest.raises(InputError, match="rollouts was .*, is None"):
        tiny_run.run(folder, 8, rollouts={}, data={"window_rows": 32})


def test_a_teacher_whose_weights_were_replaced_is_another_run(tmp_path):
    one = tiny_run.base(tmp_path / "teacher", seed=1, rows=tiny_run.BYTES)
    run(tmp_path / "run", 1, teacher=one)
    shutil.rmtree(one)
    tiny_run.base(one, seed=2, rows=tiny_run.BYTES)
    with pytest.raises(
        InputError, match="teacher's weights were those of .* are those"
    ):
        run(tmp_path / "run", 2, teacher=one)


@pytest.mark.parametrize("more", [-100, 28])
def test_a_teacher_may_have_other_rows_after_the_pieces(tmp_path, more):
    """A random student draws ids of all its rows; pieces and bytes are the first."""
    other = tiny_run.base(tmp_path / "teacher", rows=tiny_run.BYTES + more)
    run(tmp_path / "run", 3, share=1.0, teacher=other)
    for line in tiny_run.lines(tmp_path / "run"):
        assert np.isfinite(line["train"]["on_policy/kl"])
        assert line["train"]["on_policy/teacher_tokens"] >= 1
    with np.load(tmp_path / "run/rollouts/0.npz") as found:
        assert found["ids"].max() < tiny_run.BYTES + min(more, 0)
        assert found["teacher_ids"].max() < tiny_run.BYTES + min(more, 0)
    with pytest.raises(InputError, match="ROLLOUT_WHOLE_VOCABULARY = False"):
        run(tmp_path / "whole", 1, teacher=other, whole_vocabulary=True)


def test_a_mesh_writes_and_learns_the_same(whole, teacher, tmp_path, same_parameters):
    _, straight = whole
    mesh = run(tmp_path / "mesh", mesh="2x2", teacher=teacher)
    # Sums differ by rounding; a sampled text that did would differ by much more.
    same_parameters(tiny_run.parameters(mesh), tiny_run.parameters(straight), atol=1e-4)


def test_whole_distributions_are_compared_in_the_step(
    teacher, tmp_path, same_parameters
):
    """With rows of all ids it is the same loss; also for microbatches on a mesh."""
    rows = {"teacher": teacher, "share": 0.5, "steps": 4}
    case = {"steps": 3, "log_period": 1, "period": 100}
    found = {}
    for name, fields, more in (
        ("rows", {"top_k": tiny_run.BYTES}, {}),
        ("whole", {"whole_vocabulary": True}, {}),
        (
            *("mesh", {"whole_vocabulary": True}),
            {"mesh": "2x2", "data": {"microbatches": 2}},
        ),
    ):
        folder = tmp_path / name
        result = tiny_run.run(folder, rollouts={**rows, **fields}, **case, **more)
        found[name] = tiny_run.parameters(result), tiny_run.lines(folder)
    for name in ("whole", "mesh"):
        same_parameters(found[name][0], found["rows"][0], atol=1e-4)
        for one, other in zip(found[name][1], found["rows"][1], strict=True):
            for metric in ("loss", "kl", "on_policy/kl", "corpus/kl", "ce"):
                ours, theirs = one["train"][metric], other["train"][metric]
                assert ours == pytest.approx(theirs, rel=1e-4), (name, metric)
    assert "on_policy/reverse_kl" in found["whole"][1][0]["train"]


def test_a_mode_of_rows_has_no_whole_form(teacher, tmp_path):
    rollouts = {"teacher": teacher, "share": 0.5, "whole_vocabulary": True}
    with pytest.raises(InputError, match="'paper' is for the K known"):
        tiny_run.run(tmp_path / "run", 2, rollouts=rollouts, loss={"mode": "paper"})


def test_one_process_goes_on_within_a_window_of_two(
    whole, teacher, tmp_path, start, same_parameters
):
    _, straight = whole
    coordinator = f"localhost:{free_port()}"
    options = {
        "model_dir": str(tmp_path / "run"),
        "steps": 3,
        "mesh": "2",
        "period": 3,
        "log_period": 1,
        "rollouts": {"share": 0.5, "steps": 4, "teacher": teacher},
    }
    both = [start(processes=[coordinator, 2, index], **options) for index in (0, 1)]
    for process in both:
        _, error = process.communicate(timeout=300)
        assert process.returncode == 0, error
    resumed = run(tmp_path / "run", teacher=teacher)
    same_parameters(
        tiny_run.parameters(resumed), tiny_run.parameters(straight), atol=1e-4
    )


def test_a_teacher_of_another_vocabulary_is_refused(tmp_path):
    tiny_run.run(tmp_path / "other", 1)  # with 48 rows
    with pytest.raises(InputError, match="48 vocabulary rows, fewer than the student"):
        run(tmp_path / "run", teacher=str(tmp_path / "other"))
    with pytest.raises(InputError, match="nowhere"):
        run(tmp_path / "run", teacher="./nowhere")


# ---- A served teacher ----------------------------------------------------------------
COUNT = 96


@pytest.fixture(scope="module")
def problems(tmp_path_factory):
    file = tmp_path_factory.mktemp("problems") / "train.jsonl"
    lines = [
        {"question": f"She had {n} cakes. How many?", "answer": f"All.\n#### {n}"}
        for n in range(COUNT)
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


@pytest.fixture
def server():
    one = EchoServer({f"She had {n} cakes. How many?": str(n) for n in range(COUNT)})
    with one.running() as one.url:
        yield one


def served(server, problems, **more):
    return {
        "server": server.url,
        "model": "m",
        "problems_path": str(problems),
        "share": 0.5,
        "steps": 4,
        **more,
    }


def test_a_served_teacher_is_asked_for_every_text_once(server, problems, tmp_path):
    server.fault = lambda request: "500" if request.number % 7 == 3 else None
    options = {"questions": True, "rollouts": served(server, problems)}
    tiny_run.run(tmp_path / "run", 8, **options)
    asked = [(one.question, one.body["prompt"]) for one in server.requests]
    answered = [pair for n, pair in enumerate(asked) if n % 7 != 3]
    assert answered and len(answered) == len(set(answered))
    assert all(prompt.count("Let's think step by step\n") == 1 for _, prompt in asked)
    lines = tiny_run.lines(tmp_path / "run")
    assert all(line["train"]["on_policy/right"] == 0 for line in lines)
    assert all(0 <= line["train"]["on_policy/unscored"] < 1 for line in lines)
    # Where nothing is known the loss is 0: a random student writes few real bytes.
    assert all(line["train"]["on_policy/kl"] >= 0 for line in lines)
    tiny_run.run(tmp_path / "again", 4, **options)
    (tmp_path / "again/rollouts/0.npz").unlink()
    shutil.rmtree(tmp_path / "again/checkpoints")
    before = len(server.requests)
    tiny_run.run(tmp_path / "again", 4, **options)
    assert len(server.requests) == before  # the database has all
    # What the server reads belongs to the run, and is compared before anything runs.
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("Question: 1?\nOne.\n")
    others = tmp_path / "train.jsonl"
    others.write_text(problems.read_text() + "\n")
    for name, changed in (
        ("ROLLOUT_PROMPT_PATH", {"prompt_path": str(prompt)}),
        ("ROLLOUT_PROBLEMS_PATH", {"problems_path": str(others)}),
        ("ROLLOUT_TASK", {"task": "svamp"}),
    ):
        with pytest.raises(InputError, match=f"another run: {name} had another"):
            again = options["rollouts"] | changed
            tiny_run.run(tmp_path / "again", 5, questions=True, rollouts=again)
    assert len(server.requests) == before


def test_texts_belong_to_what_the_server_read_and_not_to_its_place(problems, tmp_path):
    """Also before the first checkpoint, when only the kept texts say it."""
    fields = {"question": "She: {question}", "answer": "answer"}
    task = json.dumps({"name": "own", "fields": fields})
    files = {"prompt_path": "She had one cake?\nOne.\n", "task": task}
    files["problems_path"] = problems.read_text()

    def kept(folder, written=False, **changed):
        folder = tmp_path / folder
        folder.mkdir(exist_ok=True)
        for name, content in (files | changed).items():
            (folder / f"{name}.json").write_text(content)
        paths = {name: str(folder / f"{name}.json") for name in files}
        spec = RolloutSpec(0.5, server=f"http://{folder.name}/v1", model="m", **paths)
        teacher = teacher_of({"served": read_by_server(spec)})
        keeper = Keeper(tmp_path, spec.identity(), teacher, lambda: None)
        if written:
            keeper.write(0, "weights", nothing(3))
        return keeper.read(0, "weights") is not None

    (tmp_path / "rollouts").mkdir()
    assert kept("one", written=True) and kept("moved")
    for name, content in files.items():
        assert not kept("one", **{name: content.replace("She", "He", 1)})
    assert kept("one")


@pytest.mark.slow
def test_process_0_asks_the_server_for_all(
    server, problems, tmp_path, start, same_parameters
):
    options = {"steps": 4, "questions": True, "rollouts": served(server, problems)}
    one = tiny_run.run(tmp_path / "one", **options)
    asked = len(server.requests)
    coordinator = f"localhost:{free_port()}"
    options |= {"model_dir": str(tmp_path / "two"), "mesh": "2"}
    options["save_as"] = str(tmp_path / "two.npz")
    both = [start(processes=[coordinator, 2, index], **options) for index in (0, 1)]
    for process in both:
        _, error = process.communicate(timeout=300)
        assert process.returncode == 0, error
    assert len(server.requests) == 2 * asked
    with np.load(tmp_path / "two.npz") as found:
        same_parameters(dict(found), tiny_run.parameters(one), atol=1e-4)


def test_a_server_that_scores_nothing_ends_the_run_at_once(server, problems, tmp_path):
    server.fault = lambda request: "no echo"
    with pytest.raises(InputError, match="does not score"):
        tiny_run.run(
            tmp_path / "run", 4, questions=True, rollouts=served(server, problems)
        )
    with pytest.raises(InputError, match="OpenAI does not report"):
        options = served(server, problems) | {"server": "https://api.openai.com/v1"}
        tiny_run.run(tmp_path / "run", 4, questions=True, rollouts=options)


def test_a_server_needs_the_extra_for_teachers(server, problems, tmp_path, monkeypatch):
    name = "specialize.training.rollouts.served_teacher"
    monkeypatch.setitem(sys.modules, name, None)  # as if it could not be imported
    with pytest.raises(InputError, match="pip install 'specialize.teacher.'"):
        options = served(server, problems)
        tiny_run.run(tmp_path / "run", 4, questions=True, rollouts=options)


def test_records_of_other_questions_are_named(server, problems, tmp_path):
    with pytest.raises(InputError, match="'a-.*' answers no question of"):
        tiny_run.run(tmp_path / "run", 4, rollouts=served(server, problems))


# ---- Signals while the texts of a window are made ------------------------------------


def latest(folder):
    with CheckpointStore(folder / "checkpoints", read_only=True) as store:
        return store.latest()


@pytest.mark.parametrize("where", [(Writer, "write"), (MeshTeacher, "read")])
def test_a_signal_between_two_windows_saves_the_step_and_loses_nothing(
    whole,
    teacher,
    tmp_path,
    monkeypatch,
    same_parameters,
    where,
):
    folder, straight = whole
    real, calls = getattr(*where), []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGTERM)
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(*where, interrupted)
        stopped = run(tmp_path / "run", teacher=teacher)
    assert stopped.stopped and stopped.signal == signal.SIGTERM
    assert stopped.step == latest(tmp_path / "run") == 4  # the end of a window
    resumed = run(tmp_path / "run", teacher=teacher)
    assert not resumed.stopped and resumed.signal == 0
    same_parameters(tiny_run.parameters(resumed), tiny_run.parameters(straight))
    assert tiny_run.lines(tmp_path / "run") == tiny_run.lines(folder)


def test_a_signal_does_not_wait_for_a_server_that_hangs(
    server,
    problems,
    tmp_path,
    monkeypatch,
):
    monkeypatch.setattr(served_teacher, "_GRACE", 1.0)
    options = {"questions": True, "rollouts": served(server, problems)}
    asked = threading.Event()

    def held(request):
        if not asked.is_set():
            asked.set()
            # This thread's: it interrupts nothing that the main thread waits for.
            signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
        return request.number >= 8  # what was answered in time is kept

    server.held = held
    stopped = tiny_run.run(tmp_path / "run", 4, **options)
    assert stopped.stopped and stopped.step == latest(tmp_path / "run") == 0
    kept = {one.key for one in server.requests if one.answered}
    before = len(server.requests)
    server.held = lambda request: False
    resumed = tiny_run.run(tmp_path / "run", 4, **options)
    assert resumed.step == 4 and not resumed.stopped
    assert kept and not kept & {one.key for one in server.requests[before:]}


def test_a_second_interrupt_does_not_wait_at_all(
    server,
    problems,
    tmp_path,
    monkeypatch,
):
    monkeypatch.setattr(served_teacher, "_GRACE", 3000.0)
    second = threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGINT))

    def held(request):
        if (
            request.number == 0
            and not second.is_alive()
            and not second.finished.is_set()
        ):
            second.start()
            os.kill(os.getpid(), signal.SIGINT)
        return True

    server.held = held
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        tiny_run.run(
            tmp_path / "run", 4, questions=True, rollouts=served(server, problems)
        )
    assert time.monotonic() - began < 300
