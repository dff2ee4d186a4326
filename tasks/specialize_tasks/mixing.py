"""Corpora, text files and SeqIO tasks as one mixture, with a share of each.

    MIXTURE_OR_TASK_NAME = {'corpora/tickets': 9, 'flan_tasks': 1, 'more.jsonl': 0.5}

The shares are relative numbers of examples. "corpora/tickets:zero_shot" takes one
mixture of formats of a corpus, or one format; within it, a format's part of the share
is its part of the records. A text file has JSON lines {"inputs", "targets"}; a task or
mixture of SeqIO is named as it is registered. Where there is no teacher, targets get
one-hot rows, so that KL and cross-entropy are the same for them. The format ids of an
example say which part of the mixture it is from (`student.loss.spec.PART`).
"""

import functools
import hashlib
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import seqio

from specialize import checks
from specialize.config import neutral
from specialize.corpus.choices import RECORD_FORMATS, TEXT
from specialize.corpus.storage.manifest import Manifest
from specialize.digests import file_digest
from specialize.errors import InputError, did_you_mean
from specialize.training.data import foreign_tasks
from specialize.training.data.foreign_tasks import SIDES, is_ours

from . import distill, locations, preprocessors, text

ALL = "all"
_FORMATS = {
    ALL: RECORD_FORMATS,
    **distill.MIXTURES,
    **{name: (name,) for name in RECORD_FORMATS},
}
_REMEDY = (
    "Write {'CORPUS': 9, 'TEXT.jsonl': 1}: folders of 'specialize corpus build', files "
    "of JSON lines and names of SeqIO tasks, each with its share of the examples."
)
# What a part contributes: (what its data are, its SeqIO name, its rate).
_Found = Iterator[tuple[str, str, float]]


def mixture(shares: Mapping[str, float]) -> str:
    """Registers a mixture, and gives its SeqIO name.

    Args:
        shares: Folder of a corpus, perhaps with ":<formats>", file of JSON lines, or
            name of a SeqIO task or mixture -> its share.

    Raises:
        InputError: A name is none of these, a share is no positive number, the corpora
            differ in vocabulary or K, or a task has another vocabulary.
    """
    if not shares:
        raise InputError(f"the mixture is empty. {_REMEDY}")
    corpora: dict[str, Manifest] = {}
    registered: list[str] = []
    parts: list[tuple[str, str, float]] = []  # path or name, formats, share
    for given, share in shares.items():
        checks.real(f"the share of {given!r} in the mixture", share, above=0.0)
        path, formats = neutral.part_of_mixture(given)
        path = locations.copied(path, "A part of the mixture")
        if os.path.isdir(path):
            corpora[path] = Manifest.load(path)
            checks.one_of(f"the part of {path} after ':'", formats or ALL, _FORMATS)
        elif not os.path.isfile(path):
            path = given
            _check_registered(given)
            registered.append(given)
        parts.append((path, formats or ALL, float(share)))
    k = _common_k(corpora | _corpora_of(registered))
    rates: dict[str, float] = {}
    seen: dict[str, str] = {}  # what the data are -> the part that has them
    for number, (path, formats, share) in enumerate(parts, start=1):
        if path in corpora:
            found = _corpus(path, corpora[path], _FORMATS[formats], number)
        elif path in registered:
            found = _registered(path, k, number)
        else:
            found = _text(path, k, number)
        entries = list(found)
        for what, name, _ in entries:
            if what in seen:
                raise InputError(
                    f"{path} is in the mixture twice, or a copy of it is: {seen[what]} "
                    f"has the same data ({name}). Give them one share."
                )
        seen |= {what: path for what, _, _ in entries}
        total = sum(rate for _, _, rate in entries)
        rates |= {name: share * rate / total for _, name, rate in entries}
    name = f"specialize_mixture_{_digest(repr(sorted(rates.items())))}"
    if name not in seqio.MixtureRegistry.names():
        seqio.MixtureRegistry.add(name, list(rates.items()))
    return name


def _check_registered(name: str) -> None:
    known = [*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()]
    if name not in known:
        raise InputError(
            f"{name!r} of the mixture does not exist: it is no folder, no file and no "
            f"registered SeqIO task.{did_you_mean(name, known)} {_REMEDY}"
        )


def _corpora_of(names: Iterable[str]) -> dict[str, Manifest]:
    """The corpora of registered tasks."""
    found: dict[str, Manifest] = {}
    for name in names:
        for task in seqio.get_subtasks(seqio.get_mixture_or_task(name)):
            if isinstance(task.source, distill.CorpusSource):
                folder = task.source.folder()
                found[folder] = Manifest.load(folder)
    return found


def _common_k(corpora: Mapping[str, Manifest]) -> int:
    """Entries per teacher row, of every corpus; 1 if there is none."""
    if not corpora:
        return 1
    (first, manifest), *others = corpora.items()
    for path, other in others:
        for name in ("vocabulary_sha256", "vocabulary_rows", "k", "spelling"):
            # A checkpoint with the student's vocabulary wrote its texts itself.
            if name == "spelling" and {*manifest.formats} | {*other.formats} >= {TEXT}:
                continue
            one = getattr(manifest.fingerprint, name)
            two = getattr(other.fingerprint, name)
            if one != two:
                raise InputError(
                    f"the corpora {first} and {path} cannot be mixed: {name} is "
                    f"{one!r} and {two!r}. Build them with the same settings."
                )
    return manifest.fingerprint.k


def _corpus(
    path: str, manifest: Manifest, formats: tuple[str, ...], part: int
) -> _Found:
    """Registers the tasks of a corpus."""
    counts = {name: manifest.counts().get(name, 0) for name in formats}
    if not sum(counts.values()):
        raise InputError(
            f"the corpus {path} has no records of {', '.join(formats)}. Choose other "
            "formats, or leave it out."
        )
    content = _content(manifest)
    prefix = f"{_prefix(path, content)}_part{part}"
    if f"{prefix}_{RECORD_FORMATS[0]}" not in seqio.TaskRegistry.names():
        distill.register(prefix, path, part=part)
    for name, count in counts.items():
        if count:
            yield f"{content} {name}", f"{prefix}_{name}", float(count)


def _text(path: str, k: int, part: int) -> _Found:
    """Registers a text file with one-hot teacher rows."""
    content = file_digest(path)
    steps = [
        preprocessors.name_records,
        seqio.preprocessors.tokenize,
        preprocessors.fit_text,
    ]
    name = f"{_prefix(path, content)}_part{part}_k{k}"
    yield content, _add(name, text.JsonLinesSource(path), steps, k, part), 1.0


def _registered(name: str, k: int, part: int) -> _Found:
    """Registers the tasks of a SeqIO task or mixture with teacher rows and a part.

    A task without a split "train" has no share: SeqIO would leave it out, and the whole
    part would be drawn less often than it should be.
    """
    provider = seqio.get_mixture_or_task(name)
    tasks = [task for task in seqio.get_subtasks(provider) if "train" in task.splits]
    rates = [(task, rate) for task in tasks if (rate := _rate(provider, task)) > 0]
    if not rates:
        raise InputError(
            f"the SeqIO task or mixture {name!r} has no task with a split 'train' and "
            f"a positive rate: there is nothing to train on. {_REMEDY}"
        )
    for task, rate in rates:
        new = f"{task.name}_part{part}_k{k}"
        yield _data_of(task), _with_rows(task, new, k, part), rate


def _data_of(task: Any) -> str:
    """What the data of a registered task are: their content, or else its name."""
    source = task.source
    if not is_ours(task):  # preprocessors of others may make other data of a file
        return task.name
    if isinstance(source, distill.CorpusSource):
        return f"{_content(Manifest.load(source.folder()))} {source.format}"
    if isinstance(source, text.JsonLinesSource):
        return file_digest(*source.list_shards("train"))
    return task.name


def _rate(provider: Any, task: Any) -> float:
    """The rate of a task in what is registered, which may be a function of a user."""
    if not isinstance(provider, seqio.Mixture):
        return 1.0
    try:
        rate = float(provider.get_rate(task))
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"the SeqIO mixture {provider.name!r} gives no rate of the task "
            f"{task.name!r} ({type(error).__name__}: {error}). Give it a number."
        ) from error
    checks.real(f"the rate of {task.name!r} in {provider.name!r}", rate, least=0)
    return rate


def _with_rows(task: Any, name: str, k: int, part: int) -> str:
    features = task.output_features
    for side in SIDES:
        words = getattr(features.get(side), "vocabulary", None)
        if locations.VOCABULARY != words:
            raise InputError(
                f"the SeqIO task {task.name!r} has no {side!r} in the student's "
                f"vocabulary {locations.vocabulary_file()} (it has {words}). Register "
                "it with specialize_tasks.locations.VOCABULARY."
            )
    # Its preprocessors append EOS where its own features say so.
    words = locations.VOCABULARY
    sides = {
        side: seqio.Feature(words, add_eos=features[side].add_eos) for side in SIDES
    }
    of_teacher = preprocessors.TEACHER_FEATURES if "teacher_ids" in features else ()
    more = [*of_teacher, *foreign_tasks.trusted(task)]
    of_task = functools.partial(preprocessors.token_ids, task=task.name, more=more)
    steps = [*task.preprocessors, of_task]
    if foreign_tasks.CUTS not in more:
        steps.append(preprocessors.fit_tokens)
    if of_teacher:
        of_part = functools.partial(preprocessors.name_part, part=part)
        return _register(name, task.source, [*steps, of_part], sides)
    return _add(name, task.source, steps, k, part, sides)


def _add(
    name: str,
    source: Any,
    steps: list[Callable[..., Any]],
    k: int,
    part: int,
    sides: Mapping[str, seqio.Feature] = {},
) -> str:
    rows = functools.partial(preprocessors.certain, k=k)
    of_part = functools.partial(preprocessors.name_part, part=part)
    return _register(name, source, [*steps, rows, of_part], sides)


def _register(
    name: str,
    source: Any,
    steps: list[Callable[..., Any]],
    sides: Mapping[str, seqio.Feature],
) -> str:
    if name not in seqio.TaskRegistry.names():
        seqio.TaskRegistry.add(
            name,
            source=source,
            preprocessors=steps,
            output_features={**distill.output_features(), **sides},
            metric_fns=[],
        )
    return name


def _content(manifest: Manifest) -> str:
    """The digests of all files of a corpus."""
    return "".join(shard.sha256 for shard in manifest.shards)


def _prefix(path: str, content: str) -> str:
    """A name that follows from the name and the content of a folder or file."""
    stem = re.sub(r"\W", "_", pathlib.Path(path).name.partition(".")[0]) or "data"
    return f"{stem}_{_digest(content)[:8]}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:12]
