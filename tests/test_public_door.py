"""The Python door: five lines for a notebook, and every example of a docstring."""

import doctest
import inspect
import pathlib
import shutil
import subprocess
import sys
import tarfile

import numpy as np
import pytest

import specialize

GOLDEN = pathlib.Path(__file__).parent / "golden" / "v0_1"
NAMES = sorted(specialize.__all__)


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    """A folder with a tiny run at runs/student and its corpus at runs/corpus."""
    folder = tmp_path_factory.mktemp("notebook")
    with tarfile.open(GOLDEN / "run.tar.gz") as archive:
        archive.extractall(folder / "unpacked")
    (folder / "runs").mkdir()
    shutil.move(folder / "unpacked" / "run", folder / "runs" / "student")
    shutil.copytree(GOLDEN / "corpus", folder / "runs" / "corpus")
    # Where the configuration of the run says that its vocabulary is.
    shutil.copy(GOLDEN / "vocabulary.model", folder)
    shutil.copytree(GOLDEN / "world", folder / "world")
    return folder


@pytest.fixture(autouse=True)
def in_the_notebook(notebook, monkeypatch):
    monkeypatch.chdir(notebook)
    monkeypatch.setenv("SPECIALIZE_CORPUS_DIR", "runs/corpus")
    monkeypatch.setenv("SPECIALIZE_VOCABULARY", "vocabulary.model")


@pytest.fixture(scope="module")
def student(notebook):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(notebook)
        return specialize.load("runs/student")


def test_the_five_lines_of_a_notebook():
    student = specialize.load("runs/student")
    texts = student.generate(["Q: ...\nLet's think step by step"])
    losses = student.loss(specialize.Corpus("runs/corpus"))
    verdict = specialize.judge("The answer is 18.", gold="18")
    records = [record for record in specialize.Corpus("runs/corpus")]
    assert len(texts) == 1 and isinstance(texts[0], str) and texts.scores[0] <= 0
    assert len(losses) == len(records) > 0
    assert (verdict.correct, verdict.value, verdict.how) == (True, "18", "marked")
    assert all(record.target.teacher_ids.ndim == 2 for record in records)


def objects() -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = []
    for name in NAMES:
        one = getattr(specialize, name)
        found.append((name, one))
        if inspect.isclass(one):
            found += [
                (f"{name}.{key}", value)
                for key, value in vars(one).items()
                if inspect.isfunction(value) and not key.startswith("_")
            ]
    return found


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_has_an_example_that_runs(name):
    finder, runner = doctest.DocTestFinder(recurse=False), doctest.DocTestRunner()
    examples = 0
    for label, one in objects():
        if label.partition(".")[0] != name:
            continue
        assert inspect.getdoc(one), f"{label} has no docstring"
        for test in finder.find(one, label, globs={"specialize": specialize}):
            examples += len(test.examples)
            outcome = runner.run(test)
            assert outcome.failed == 0, f"the example of {label} fails (see above)"
    assert examples, f"specialize.{name} has no example in its docstring"


def test_importing_the_package_imports_nothing_else():
    code = (
        "import sys, specialize\n"
        "print([n for n in sys.modules if n.startswith('specialize.')], "
        "'jax' in sys.modules, 'numpy' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[] False False"


def test_a_misspelt_name_is_an_attribute_error_and_dir_lists_the_door():
    with pytest.raises(AttributeError, match="no attribute 'laod'"):
        specialize.laod  # noqa: B018
    assert set(NAMES) <= set(dir(specialize))


def test_scores_and_top_k_belong_to_the_texts(student):
    found = student.generate(["Q: 1 + 1\nA:", "Q: 20 - 3 tables\nA:"], top_k=4)
    assert len(found.texts) == len(found.scores) == len(found.top_k) == 2
    for score, number, top in zip(
        found.scores, found.num_tokens, found.top_k, strict=True
    ):
        assert top.ids.shape == top.logprobs.shape == (number, 4)
        assert (np.diff(top.logprobs, axis=1) <= 0).all()
        # Greedy: every token of the text is the likeliest at its position.
        assert top.logprobs[:, 0].sum() == pytest.approx(score, abs=1e-3)


def test_texts_come_in_the_order_of_their_prompts(student):
    prompts = [f"Q: {'very ' * n}long question {n}\nA:" for n in (9, 0, 4)]
    together = student.generate(prompts).texts
    assert together == tuple(student.generate([one])[0] for one in prompts)


def test_several_samples_of_a_prompt_lie_together(student):
    decoding = specialize.DecodingSpec(method="sample", num_samples=3, output_length=8)
    found = student.generate(["Q: a\nA:", "Q: b\nA:"], decoding)
    assert len(found) == len(found.scores) == 6


def test_the_loss_per_token_adds_up_to_the_loss_of_training(student):
    import jax
    import jax.numpy as jnp

    from specialize.corpus.storage.stored_record import normalise_rows

    records = list(specialize.Corpus("runs/corpus"))[:3]
    found = student.loss(records, batch_size=2)
    assert [set(one) for one in found] == [set(found[0])] * 3
    loss_sums = jax.jit(student.model.loss_sums)
    for record, losses in zip(records, found, strict=True):
        target = record.target
        probs, tail = normalise_rows(target.teacher_logprobs, target.tail)
        ids = np.asarray(target.ids, np.int32)[None]
        sums = loss_sums(
            student.params,
            {
                "encoder_input_tokens": jnp.asarray(
                    [[*record.input_ids, student.vocabulary.eos_id]], jnp.int32
                ),
                "decoder_input_tokens": jnp.asarray(np.pad(ids, ((0, 0), (1, 0))))[
                    :, :-1
                ],
                "decoder_target_tokens": jnp.asarray(ids),
                "decoder_teacher_ids": jnp.asarray(target.teacher_ids, jnp.int32)[None],
                "decoder_teacher_probs": jnp.asarray(probs)[None],
                "decoder_teacher_tail": jnp.asarray(tail)[None],
            },
        )
        assert losses["tail"].sum() == pytest.approx(float(sums.loss), rel=1e-4)
        assert float(sums.weight) == len(target.ids) == len(losses["tail"])


def test_a_student_without_a_vocabulary_says_how_to_name_one(notebook, tmp_path):
    shutil.copytree(notebook / "runs" / "student", tmp_path / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        patch.delenv("SPECIALIZE_VOCABULARY", raising=False)
        with pytest.raises(specialize.InputError, match="vocabulary="):
            specialize.load("run")


def test_prompts_are_a_list_and_records_fit_the_student(student):
    with pytest.raises(specialize.InputError, match="give a list"):
        student.generate("Q: one\nA:")
    with pytest.raises(specialize.InputError, match="top_k is -1"):
        student.generate(["Q: one\nA:"], top_k=-1)


@pytest.mark.parametrize(
    ("text", "gold", "correct"),
    [
        ("The answer is 18.", "18", True),
        ("so 6 * 3 = 18", 18, True),
        ("The answer is (B).", "(B)", True),
        ("The answer is 17.", ["18", "17"], True),
        ("The answer is True", "False", False),
    ],
)
def test_one_text_is_judged_against_one_gold_or_several(text, gold, correct):
    assert specialize.judge(text, gold=gold).correct is correct
