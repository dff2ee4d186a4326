"""Detects the format of a checkpoint and opens it.

    google/flan-t5-base                 a name on the Hugging Face hub
    path/to/folder                      Hugging Face: config.json and safetensors
    path/to/adapters                    PEFT: adapter_config.json and safetensors
    path/to/checkpoint_1000             T5X, older layout or Orbax
    path/to/t5x_run                     T5X: its newest checkpoint
    path/to/run                         a run of ours: its newest undamaged checkpoint
    path/to/run/checkpoints[/400]       the newest or one checkpoint of a run of ours
    path/to/run#ema                     the moving average of the weights (EMA_DECAY)

All but the name may be in a bucket (gs://, s3://).
"""

import dataclasses
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

from etils import epath

from specialize import paths, run_folder, typed_json
from specialize.checkpoints import fingerprint, integrity, step_folder
from specialize.checkpoints.formats import (
    adapters,
    huggingface,
    huggingface_companions,
    orbax_folders,
    peft,
    relatives,
    step_choice,
    t5x,
    tokenizer_files,
)
from specialize.checkpoints.source import Source
from specialize.checkpoints.step_folder import DamagedCheckpointError
from specialize.corpus.vocabulary import SpecialIds
from specialize.digests import is_vocabulary
from specialize.errors import InputError, nearest, suggestion
from specialize.paths import arrays, store
from specialize.progress import track
from specialize.student.network.architecture import T5Config

_Choice = Callable[[epath.Path], epath.Path | None]
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
# The models on the hub that the recipes start from.
HUB_NAMES = (
    *(f"google/flan-t5-{size}" for size in ("small", "base", "large", "xl", "xxl")),
    *(f"google/t5-v1_1-{size}" for size in ("small", "base", "large", "xl", "xxl")),
    *(f"google-t5/t5-{size}" for size in ("small", "base", "large", "3b", "11b")),
    "google/flan-ul2",
    "google/ul2",
)
_HUB_FILES = ["*.json", "*.safetensors", "spiece.model"]
_COPY = {
    "file": "Name the folder without file://.",
    "hf": "Name the model without hf://, as in google/flan-t5-base.",
    "https": "Download the checkpoint first and name its folder.",
}
_KINDS = (
    "a Hugging Face folder (config.json and safetensors), a T5X checkpoint "
    "(checkpoint_<step>), a run of specialize, or a name on the Hugging Face hub such "
    "as google/flan-t5-base"
)


def open_checkpoint(
    source: str,
    *,
    activation: str | None = None,
    config: T5Config | None = None,
    base: str | None = None,
    together: bool = False,
) -> Source:
    """Opens the checkpoint that `source` names; see the top of this module.

    Adapters are opened with the weights that they adapt, as one whole checkpoint.

    Args:
        source: a folder, a bucket URL, or a hub name.
        activation: "relu", "gelu" or "silu", for checkpoints that do not contain it.
        config: the network, if the caller knows it.
        base: place of the weights that adapters adapt; None: where the adapters say.
        together: whether all processes of the command call this for one checkpoint.
            Process 0 then says which one is the newest of a folder.

    Raises:
        InputError: there is no checkpoint, or it is damaged or of an unknown kind, or
            adapters have no base.
    """

    def open_base(name: str, where: object, stated: str | None = None) -> Source:
        return _open_base(base or name, where, activation or stated, choose)

    choose = step_choice.step_of_all if together else step_choice.step_in
    with store.explained(source):
        return _open(source, activation, config, open_base, choose)


def _open(
    source: str,
    activation: str | None,
    config: T5Config | None,
    open_base: Callable[..., Source],
    choose: _Choice = step_choice.step_in,
) -> Source:
    """As `open_checkpoint`.

    `open_base` opens the base of adapters by its name; its other arguments are the
    place of the adapters, for messages, and the activation that their run states.
    `choose` finds the step that a path means.
    """
    if source.endswith(run_folder.AVERAGE) and not pathlib.Path(source).exists():
        last = source.removesuffix(run_folder.AVERAGE)
        last_weights = _open(last, activation, config, open_base, choose)
        return orbax_folders.averaged(last_weights)
    remote = "://" in source
    path = _in_bucket(source) if remote else epath.Path(_local(source))
    if remote:
        source = str(path)
    if not path.exists():
        if remote or source.startswith((".", "/", "~")):
            near = "" if remote else did_you_mean(source)
            raise InputError(f"{source} does not exist.{near} Name {_KINDS}.")
        path = epath.Path(_download(source))
    named = path
    if path.is_file():
        # T5X's msgpack file or a safetensors file names its folder.
        path = path.parent
    folder = choose(path)
    if (
        folder is None
        and named != path
        and not any(
            (path / name).exists() for name in ("config.json", "adapter_config.json")
        )
    ):
        raise InputError(f"{named} is a file; name the folder of a checkpoint.")
    if folder is None:
        return _open_huggingface(epath.Path(paths.local(path)), open_base)
    companions = _companions(folder, path)
    activation = activation or _activation_of_run(folder)
    beside: dict[str, Any] = {"companions": companions}
    if companions is not None:
        stated = huggingface_companions.read_config(companions / "config.json")
        beside["kind"] = stated.model_type
        beside["special"] = huggingface_companions.special_ids(companions, stated)
        config = config or _network(stated, companions)
    known: dict[str, Any] = {"activation": activation, "settings": config}
    if t5x.is_folder(folder):
        opened = t5x.open_folder(folder, **known)
    else:
        opened = orbax_folders.open_folder(
            folder,
            open_base=lambda name: open_base(name, path, activation),
            **known,
        )
    if opened.adapters is not None:
        return opened  # what is beside the weights is beside the base
    return dataclasses.replace(opened, **beside)


def _in_bucket(source: str) -> epath.Path:
    """The path of a URL.

    Raises:
        InputError: its scheme is not installed, or it names no bucket.
    """
    scheme = source.partition("://")[0]
    if scheme not in paths.SCHEMES:
        # A URL may contain a password, so only its scheme is printed.
        raise InputError(
            f"the source is a URL of scheme {scheme[:20]}://, which is not installed "
            "here; only gs://, s3:// and local folders are read. "
            f"{_COPY.get(scheme, _COPY['https'])}"
        )
    url = paths.checked(source, "The source")
    arrays.teach_orbax(url)
    # A failure of the store has words of its own; a missing source has ours.
    paths.exists(url)
    return epath.Path(url)


def _local(source: str) -> pathlib.Path:
    """The absolute path of a local source, which may be absent."""
    try:
        path = pathlib.Path(source).expanduser().resolve()
        path.exists()
    except (OSError, RuntimeError, ValueError) as error:
        raise typed_json.unreadable(
            f"{source:.80}", error, remedy=f"Name {_KINDS}."
        ) from error
    return path


def check_sums(opened: Source, sums: Mapping[str, str]) -> None:
    """Compares checksums of parameters with those that our store saved.

    Args:
        opened: a checkpoint of a run of ours.
        sums: checksums by parameter name, from `integrity.checksums`.

    Raises:
        DamagedCheckpointError: parameters differ from the saved ones.
    """
    folder = epath.Path(opened.path)
    if folder.name == step_folder.STATE:
        folder = folder.parent
    _, table = step_folder.read_metadata(folder)
    saved = {name: table.get(f"{opened.saved_under}{name}") for name in sums}
    wrong = [
        name
        for name, array in saved.items()
        if array is None or array.sums != sums[name]
    ]
    if wrong:
        raise DamagedCheckpointError(
            f"{opened.path} is damaged: {len(wrong)} of {len(sums)} parameters differ "
            f"from what was saved: {', '.join(wrong)}. Name an older checkpoint."
        )


def verify_run(opened: Source) -> None:
    """Reads every parameter of a run's checkpoint once and checks its checksums.

    Raises:
        DamagedCheckpointError: as `check_sums`.
        InputError: as `adapters.check_base`.
    """
    adapters.check_base(opened)
    sums: dict[str, str] = {}
    for name, tensor in track(opened.stored.items(), "verify"):
        sums[name] = integrity.checksum(tensor.read())
    check_sums(opened, sums)


def check_eos(opened: Source, vocabulary: object, special: SpecialIds) -> None:
    """Refuses a vocabulary that ends texts in another way than the checkpoint.

    Raises:
        InputError: both ids are known, and differ.
    """
    if opened.special and opened.special.eos_id != special.eos_id:
        raise InputError(
            f"{opened.path} ends its answers with id {opened.special.eos_id}, the "
            f"vocabulary {vocabulary} with id {special.eos_id}. Name the vocabulary of "
            "these weights."
        )


def did_you_mean(source: str) -> str:
    """Returns " Did you mean ...?" for a path or hub name that does not exist, or "".

    The candidates are the folders beside the first missing part of the path, and the
    models on the hub that the recipes start from.
    """
    missing = pathlib.Path(source).expanduser()
    while not missing.parent.is_dir() and missing.parent != missing:
        missing = missing.parent
    rest = pathlib.Path(source).expanduser().relative_to(missing)
    try:
        here = sorted(one.name for one in missing.parent.iterdir() if one.is_dir())
    except OSError:
        here = []
    if missing.name.isdigit():
        # The step was probably not kept, rather than mistyped: list the kept steps.
        steps = sorted((one for one in here if one.isdigit()), key=int)
        return f" {missing.parent} holds {', '.join(steps)}." if steps else ""
    near = nearest(missing.name, here, cutoff=0.6)
    names = [str(missing.parent / one / rest) for one in near]
    return suggestion(names + nearest(source, HUB_NAMES, cutoff=0.8))


def _open_huggingface(path: epath.Path, open_base: Callable[..., Source]) -> Source:
    folder = pathlib.Path(path)
    if peft.is_folder(folder):
        return peft.open_folder(folder, open_base=lambda name: open_base(name, folder))
    if not huggingface.is_folder(folder):
        huggingface.refuse_other_weights(folder)
        found = sorted(item.name for item in folder.iterdir())
        raise InputError(
            f"{folder} holds no checkpoint ({', '.join(found[:6]) or 'it is empty'}). "
            f"Name {_KINDS}."
        )
    return huggingface.open_folder(folder)


def _open_base(
    name: str, where: object, activation: str | None, choose: _Choice
) -> Source:
    """The weights that adapters name.

    Raises:
        InputError: they cannot be opened, or have adapters themselves.
    """
    try:
        return _open(name, activation, None, _refused, choose)
    except InputError as error:
        raise InputError(
            f"{where} has adapters of {name}, which cannot be opened: {error} If the "
            "weights are elsewhere, name them: specialize convert --base."
        ) from error


def _refused(name: str, where: object, *_: object) -> Source:
    """The `open_base` of a checkpoint that is to be a base itself.

    Raises:
        InputError: always.
    """
    raise InputError(
        f"{where} has adapters itself, of {name}; the base of adapters is a checkpoint "
        f"of whole weights. Merge them first: specialize convert --source {where} "
        "--target NEW."
    )


def identified(source: str) -> tuple[str, str]:
    """The name and the fingerprint of a checkpoint that adapters are trained on.

    Every tensor is read once.

    Returns:
        (name, fingerprint): the name is that of the checkpoint itself, also if `source`
        is the folder of a run, whose newest checkpoint may change; of a model on the
        hub it is the model's.

    Raises:
        InputError: it cannot be opened, or has adapters itself.
    """
    with store.explained(source):
        opened = _open(source, "gelu", None, _refused)
    name = name_of(opened, source)
    return name, fingerprint.of(opened.tensors, opened.path, opened.saved_under)


def name_of(opened: Source, source: str) -> str:
    """The name of a checkpoint itself, if `source`, with which it was opened, is more.

    The newest checkpoint of a run's folder may change. A model on the hub has one name.
    """
    if "://" in source or pathlib.Path(_without_average(source)).expanduser().exists():
        return opened.path + source[len(_without_average(source)) :]
    return source


def _without_average(source: str) -> str:
    if pathlib.Path(source).exists():
        return source
    return source.removesuffix(run_folder.AVERAGE)


def _companions(folder: epath.Path, path: epath.Path) -> pathlib.Path | None:
    """The folder of config.json and tokenizer files of a T5X conversion, or None."""
    for candidate in (path, folder, folder.parent):
        remote = bool(paths.in_bucket(candidate))
        if remote:
            if not (candidate / "config.json").exists():
                continue
            here = paths.local(candidate, but=("*/*", "*.safetensors"))
        else:
            here = pathlib.Path(candidate)
        if _is_t5_config(here / "config.json"):
            return here
    return None


def _is_t5_config(path: pathlib.Path) -> bool:
    # The config.json of a run of ours has other content.
    return path.is_file() and huggingface_companions.model_type(path) in relatives.READ


def _network(
    settings: huggingface_companions.Settings, companions: pathlib.Path
) -> T5Config:
    network = huggingface_companions.network(settings, companions)
    tied = settings.tie_word_embeddings is not False
    return dataclasses.replace(network, logits_via_embedding=tied)


def _activation_of_run(folder: epath.Path) -> str | None:
    """The activation in the configuration of a run of ours, or None."""
    for parent in (folder.parent, folder.parent.parent):
        for name, value in run_folder.saved_values(parent).items():
            if name.endswith("T5Config.mlp_activations") and isinstance(value, list):
                return str(value[0]) if value else None
    return None


def vocabulary_of_run(path: str) -> pathlib.Path | None:
    """The vocabulary file in the configuration of a run of ours, or None."""
    folder = epath.Path(path)
    for parent in (folder, folder.parent, folder.parent.parent):
        named = run_folder.saved_values(parent).get("VOCABULARY_PATH")
        if paths.in_bucket(named):
            return paths.local(named) if paths.exists(named) else None
        if isinstance(named, str):
            return pathlib.Path(named) if is_vocabulary(named) else None
    return None


def vocabulary_of(
    path: str, companions: pathlib.Path | None = None
) -> pathlib.Path | None:
    """What names the vocabulary of a checkpoint: of its run, or beside its weights.

    Args:
        path: the checkpoint.
        companions: folder of its companion files (`Source.companions`), if known.
    """
    if (found := vocabulary_of_run(path)) is not None:
        return found
    for folder in (pathlib.Path(path), companions):
        if folder and (found := tokenizer_files.named_vocabulary(folder)) is not None:
            return found
    return None


def _download(name: str) -> str:
    """The folder of a model of the hub, from the cache or downloaded."""
    if not _HUB_NAME.fullmatch(name):
        raise InputError(f"{name} does not exist.{did_you_mean(name)} Name {_KINDS}.")
    relatives.refuse_hub_name(name)
    import huggingface_hub
    from huggingface_hub import errors

    try:
        return huggingface_hub.snapshot_download(name, allow_patterns=_HUB_FILES)
    except errors.LocalEntryNotFoundError as error:
        raise InputError(
            f"{name} is neither a folder nor in the local cache, and the Hugging Face "
            "hub cannot be reached (no network, or HF_HUB_OFFLINE is set)."
            f"{did_you_mean(name)} Download it on a machine with a network "
            f"(hf download {name}) and name the folder."
        ) from error
    except (errors.RepositoryNotFoundError, errors.GatedRepoError) as error:
        raise InputError(
            f"{name} is neither a folder nor a readable model on the Hugging Face hub."
            f"{did_you_mean(name)} Check the spelling, or log in "
            "(hf auth login) if it is private."
        ) from error
    except (errors.HfHubHTTPError, OSError) as error:
        raise InputError(
            f"{name} could not be downloaded from the Hugging Face hub: {error}. Try "
            "again, or name a folder."
        ) from error
