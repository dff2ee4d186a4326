"""The adapters in a folder of PEFT: adapter_config.json and adapter_model.safetensors.

torch stores the matrices as A [rank, in] and B [out, rank]; ours are transposed. Only
LoRA is read whose result is W + scale · A B; what would make it another one is refused.
"""

import dataclasses
import math
import pathlib
import re
from collections.abc import Collection, Mapping
from typing import Annotated, Any

import msgspec

from specialize import typed_json
from specialize.checkpoints import names
from specialize.checkpoints.formats import (
    adapters,
    enclosure,
    huggingface,
    huggingface_companions,
)
from specialize.checkpoints.formats.orbax_folders import OpenBase
from specialize.checkpoints.lazy_tensors import LazyTensor
from specialize.checkpoints.source import AdapterPair, Adapters, Source
from specialize.errors import InputError
from specialize.outputs import write_json

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_PICKLE = "adapter_model.bin"

_PREFIX = "base_model.model."
_MATRIX = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_([AB])(?:\.default)?\.weight")
_PLAIN = re.compile(r"\^?([\w.]{1,200})")
# The ways to begin a training that leave the base as it is.
_PLAIN_BEGINNINGS = (True, False, "gaussian", "eva", "orthogonal", None)
_FETCH = "Fetch it again, or correct it."

_Alpha = Annotated[float, msgspec.Meta(ge=-1e9, le=1e9)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The fields of adapter_config.json that the weights depend on."""

    peft_type: str
    base_model_name_or_path: str | None = None
    lora_alpha: _Alpha
    alpha_pattern: dict[str, _Alpha] | None = None
    use_rslora: bool = False
    # Others than these defaults are refused.
    use_dora: bool = False
    lora_bias: bool = False
    bias: str = "none"
    modules_to_save: list[str] | None = None
    init_lora_weights: Any = True
    trainable_token_indices: Any = None
    target_parameters: Any = None
    layer_replication: Any = None
    alora_invocation_tokens: Any = None


def is_folder(path: pathlib.Path) -> bool:
    """Whether `path` has adapters of PEFT."""
    return (path / CONFIG).is_file()


def open_folder(path: pathlib.Path, *, open_base: OpenBase) -> Source:
    """Opens a folder of PEFT with its base, as one whole checkpoint.

    Args:
        path: the folder.
        open_base: opens the base by its name.

    Raises:
        InputError: the adapters are of another kind, damaged, or do not fit the base.
    """
    settings = _read_settings(path)
    if settings.base_model_name_or_path is None:
        raise InputError(
            f"{path / CONFIG} does not say which weights the adapters belong to "
            "(base_model_name_or_path). Name them: specialize convert --base."
        )
    base = open_base(settings.base_model_name_or_path)
    halves: dict[str, dict[str, LazyTensor]] = {}
    unknown: list[str] = []
    for name, tensor in huggingface.open_file(path / WEIGHTS):
        match = _MATRIX.fullmatch(name)
        if match is None or len(tensor.shape) != 2:
            unknown.append(f"{name} {tensor.shape}")
        else:
            halves.setdefault(match[1], {})[match[2]] = tensor.transposed()
    pairs: dict[str, AdapterPair] = {}
    for module, half in halves.items():
        known = names.from_hf(f"{module}.weight")
        if known is None or not known[1] or half.keys() != {"A", "B"}:
            unknown.append(module)
        else:
            scale = _scale(settings, module, half["A"].shape[1], path)
            pairs[known[0]] = AdapterPair(half["A"], half["B"], scale)
    if unknown or not pairs:
        raise InputError(
            f"{path / WEIGHTS} holds what is not a pair of matrices of one of T5's "
            f"projections: {', '.join(unknown[:5]) or 'nothing'}. Name adapters (LoRA) "
            "of a T5's projections."
        )
    _check_head(pairs, base, path)
    found = Adapters(pairs, base, settings.base_model_name_or_path)
    return adapters.merged(found, format="peft", path=str(path))


def _read_settings(path: pathlib.Path) -> Settings:
    for name in (CONFIG, WEIGHTS):
        enclosure.check_link(path, path / name)
    if not (path / WEIGHTS).is_file():
        also = ""
        if (path / _PICKLE).exists():
            also = f" {_PICKLE} is a pickle, which may run code, and is not read."
        raise InputError(
            f"{path} has {CONFIG}, but no {WEIGHTS}.{also} Save the adapters with a "
            "current PEFT."
        )
    where = path / CONFIG
    settings = typed_json.read(where, Settings, remedy=_FETCH)
    if settings.peft_type != "LORA":
        raise InputError(
            f"{where} describes {settings.peft_type:.40} adapters; only LORA is read. "
            "Merge them with PEFT (merge_and_unload), and name the result."
        )
    refused = [
        name
        for name, value, plain in (
            ("use_dora", settings.use_dora, (False,)),
            ("lora_bias", settings.lora_bias, (False,)),
            ("bias", settings.bias, ("none",)),
            ("modules_to_save", settings.modules_to_save, (None, [])),
            ("init_lora_weights", settings.init_lora_weights, _PLAIN_BEGINNINGS),
            ("trainable_token_indices", settings.trainable_token_indices, (None,)),
            ("target_parameters", settings.target_parameters, (None, [])),
            ("layer_replication", settings.layer_replication, (None,)),
            ("alora_invocation_tokens", settings.alora_invocation_tokens, (None,)),
        )
        if value not in plain
    ]
    if refused:
        raise InputError(
            f"{where} sets {', '.join(refused)}, with which the weights are not the "
            "base's plus a product of two matrices. Merge the adapters with PEFT "
            "(merge_and_unload), and name the result."
        )
    return settings


def _scale(settings: Settings, module: str, rank: int, path: pathlib.Path) -> float:
    """The factor of a module's adapter."""
    alpha = settings.lora_alpha
    for pattern, own in (settings.alpha_pattern or {}).items():
        plain = _PLAIN.fullmatch(pattern)
        if plain is None:
            raise InputError(
                f"{path / CONFIG}: alpha_pattern has {pattern!r:.80}; only names of "
                "modules are read, no other regular expressions. Write the names out."
            )
        if module == plain[1] or module.endswith(f".{plain[1]}"):
            alpha = own
            break
    rank = max(1, rank)
    return alpha / (math.sqrt(rank) if settings.use_rslora else rank)


def _check_head(pairs: Collection[str], base: Source, path: pathlib.Path) -> None:
    """Refuses an adapter of a head whose outputs transformers scales.

    Raises:
        InputError: the base's head has the factor in it, and the adapter has not.
    """
    if names.HEAD not in pairs or base.companions is None:
        return
    stated = huggingface_companions.read_config(base.companions / "config.json")
    if stated.scale_decoder_outputs and names.HEAD in base.tensors:
        raise InputError(
            f"{path} adapts lm_head, whose outputs {base.path} scales by d_model^-0.5 "
            "although it is not the embedding. Merge the adapters with PEFT "
            "(merge_and_unload), and name the result."
        )


def write_folder(
    folder: pathlib.Path, matrices: Mapping[str, LazyTensor], found: Adapters, base: str
) -> None:
    """Writes adapters as PEFT saves them.

    Args:
        folder: the folder to write into.
        matrices: the matrices by canonical name, from `matrices_of`.
        found: the adapters.
        base: name or path of the weights that they adapt.
    """
    modules = {name: _module(name) for name in found.pairs}
    tensors = {}
    for name, tensor in matrices.items():
        place, _, kind = name.rpartition("/")
        module = modules[f"{place}/kernel"]
        half = kind.removeprefix("lora_").upper()
        tensors[f"{_PREFIX}{module}.lora_{half}.weight"] = tensor.transposed()
    huggingface.write_file(folder / WEIGHTS, tensors)
    write_json(folder / CONFIG, _settings_of(found, modules, base))


def matrices_of(found: Adapters) -> dict[str, LazyTensor]:
    """The matrices of adapters by canonical name, `.../lora_a` and `.../lora_b`."""
    result = {}
    for name, pair in found.pairs.items():
        place = name.removesuffix("/kernel")
        result[f"{place}/{adapters.LORA_A}"] = pair.inward
        result[f"{place}/{adapters.LORA_B}"] = pair.outward
    return result


def _settings_of(
    found: Adapters, modules: Mapping[str, str], base: str
) -> dict[str, Any]:
    """The adapter_config.json."""
    ranks = {modules[n]: pair.inward.shape[1] for n, pair in found.pairs.items()}
    alphas = {modules[n]: p.scale * p.inward.shape[1] for n, p in found.pairs.items()}
    if found.record is not None:
        alphas = dict.fromkeys(alphas, found.record.alpha)
    rank, alpha = next(iter(ranks.values())), next(iter(alphas.values()))
    others = {_module(name) for name in found.base.tensors if name.endswith("kernel")}
    return {
        "peft_type": "LORA",
        "task_type": "SEQ_2_SEQ_LM",
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": int(alpha) if float(alpha).is_integer() else alpha,
        "lora_dropout": 0.0,
        "target_modules": _targets(set(modules.values()), others),
        "rank_pattern": {m: one for m, one in ranks.items() if one != rank},
        "alpha_pattern": {m: one for m, one in alphas.items() if one != alpha},
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "modules_to_save": None,
        "use_rslora": False,
        "use_dora": False,
    }


def _targets(adapted: set[str], every: set[str]) -> list[str] | str:
    """PEFT's `target_modules`: last parts of names if they say it, or an expression."""
    lasts = {module.rpartition(".")[2] for module in adapted}
    if {module for module in every if module.rpartition(".")[2] in lasts} == adapted:
        return sorted(lasts)
    shorter = {
        re.sub(r"(block\\\.)\d+", r"\1\\d+", re.escape(module)) for module in adapted
    }
    for patterns in (shorter, map(re.escape, adapted)):
        whole = "|".join(sorted(patterns))
        if {module for module in every if re.fullmatch(whole, module)} == adapted:
            return whole
    raise AssertionError("the names of the adapted modules match themselves")


def _module(name: str) -> str:
    """The name in transformers of the module that a kernel belongs to."""
    return huggingface.hf_name(name)[0].removesuffix(".weight")
