"""The files beside the weights of a Hugging Face folder.

They are config.json (the network of the tensors), generation_config.json and the model
card; `tokenizer_files` has the others.
"""

import dataclasses
import pathlib
from collections.abc import Collection
from typing import Annotated, Any

import msgspec

from specialize import quiet, typed_json
from specialize.checkpoints.formats import enclosure, relatives, tokenizer_files
from specialize.corpus.vocabulary import SpecialIds
from specialize.errors import InputError
from specialize.outputs import write_json
from specialize.student.network.architecture import T5Config

_ACTIVATIONS = {"gelu_new": "gelu", "swish": "silu"}
_EXPORTED = {"gelu": "gelu_new"}


# Padding and EOS of T5's vocabularies, and of MADLAD-400's.
_SPECIAL = (SpecialIds(), SpecialIds(1, 2))
# Embedding rows of mT5, all of whose models are of T5 1.1's shape.
_MT5_ROWS = range(250_100, 250_113)
_FETCH = "Fetch it again, or correct it."

# No T5 is larger; such a number is damage.
_Size = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
_Ids = typed_json.Whole | list[typed_json.Whole] | None


@dataclasses.dataclass(frozen=True)
class _Kind:
    model_type: Any = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Decoding:
    """The fields of generation_config.json that the weights depend on."""

    decoder_start_token_id: _Ids = None
    pad_token_id: _Ids = None
    eos_token_id: _Ids = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(_Decoding):
    """The fields of config.json that describe a T5, by their names there."""

    model_type: str = "t5"
    vocab_size: _Size
    d_model: _Size
    d_kv: _Size
    d_ff: _Size
    num_layers: _Size
    num_heads: _Size
    num_decoder_layers: _Size | None = None
    feed_forward_proj: str = "relu"
    dropout_rate: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.1
    layer_norm_epsilon: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1e-6
    relative_attention_num_buckets: _Size = 32
    relative_attention_max_distance: _Size = 128
    tie_word_embeddings: bool | None = None
    scale_decoder_outputs: bool | None = None


def model_type(path: pathlib.Path) -> Any:
    """The kind of model that a config.json states, or None.

    Raises:
        InputError: the file is not JSON, or is a link to a file elsewhere.
    """
    enclosure.check_link(path.parent, path)
    return typed_json.read(path, _Kind, remedy=_FETCH).model_type


def read_config(path: pathlib.Path) -> Settings:
    """Reads config.json, and refuses another architecture.

    `special_ids` checks the ids with which decoding starts and ends.

    Raises:
        InputError: the file is damaged, or describes another model.
    """
    if not path.exists():
        raise InputError(
            f"{path.parent} has no config.json, which describes the network. Add it."
        )
    relatives.refuse_kind(model_type(path), path)
    settings = typed_json.read(path, Settings, remedy=_FETCH)
    if settings.model_type == "mt5" and settings.tie_word_embeddings is not False:
        # transformers never scales the outputs of an mT5.
        settings = dataclasses.replace(settings, scale_decoder_outputs=False)
    return settings


def special_ids(folder: pathlib.Path, settings: Settings) -> SpecialIds:
    """Padding and EOS of a folder.

    EOS is that of its vocabulary. The padding id changes no answer, so the stated one
    is kept. Without a SentencePiece model both are T5's, or MADLAD-400's.

    Raises:
        InputError: config.json or generation_config.json states other ids, or another
            start of decoding than 0, with which the student would give other answers.
    """
    found: dict[pathlib.Path, _Decoding] = {folder / "config.json": settings}
    generation = folder / "generation_config.json"
    if generation.exists():
        enclosure.check_link(folder, generation)
        found[generation] = typed_json.read(generation, _Decoding, remedy=_FETCH)
    stated = (settings.pad_token_id, settings.eos_token_id)
    vocabulary = tokenizer_files.vocabulary_of(folder)
    ours = _SPECIAL[stated == _SPECIAL[1]]
    owner = "a T5 student"
    pads: Collection[int] = (ours.pad_id,)
    if vocabulary is not None:
        ours = vocabulary.special
        owner = f"a student with its {tokenizer_files.VOCABULARY}"
        pads = range(vocabulary.rows)
        if stated[0] in pads:
            ours = ours._replace(pad_id=stated[0])
    allowed = {
        "decoder_start_token_id": (0,),
        "pad_token_id": pads,
        "eos_token_id": (ours.eos_id,),
    }
    for path, decoding in found.items():
        for name, values in allowed.items():
            theirs = getattr(decoding, name)
            one = theirs[0] if isinstance(theirs, list) and len(theirs) == 1 else theirs
            if one is not None and one not in values:
                raise InputError(
                    f"{path} says {name} = {theirs!r:.80}; {owner} has {values[0]}, "
                    "and would give other answers with these weights. Name a "
                    "checkpoint with the special tokens of its vocabulary."
                )
    return ours


def network(settings: Settings, where: pathlib.Path) -> T5Config:
    """The network that a config.json describes.

    Raises:
        InputError: a field has a value that T5 does not have.
    """
    projection = settings.feed_forward_proj
    gated = projection.startswith("gated-")
    activation = projection.removeprefix("gated-")
    if projection == "gelu":
        raise InputError(
            f"{where / 'config.json'} has feed_forward_proj = 'gelu', the exact GELU; "
            "the student has the approximation of T5, 'gelu_new'. Name another "
            "checkpoint."
        )
    activation = _ACTIVATIONS.get(activation, activation)
    try:
        return T5Config(
            vocab_size=settings.vocab_size,
            emb_dim=settings.d_model,
            num_heads=settings.num_heads,
            num_encoder_layers=settings.num_layers,
            num_decoder_layers=settings.num_decoder_layers or settings.num_layers,
            head_dim=settings.d_kv,
            mlp_dim=settings.d_ff,
            mlp_activations=(activation, "linear") if gated else (activation,),
            dropout_rate=settings.dropout_rate,
            logits_via_embedding=True,
            relpos_per_layer=settings.model_type == "umt5",
            relpos_num_buckets=settings.relative_attention_num_buckets,
            relpos_max_distance=settings.relative_attention_max_distance,
            norm_epsilon=settings.layer_norm_epsilon,
        )
    except InputError as error:
        raise InputError(f"{where / 'config.json'}: {error}") from error


def kind_of(config: T5Config, stated: object = None) -> str:
    """The `model_type` of transformers that computes what the network computes.

    Args:
        config: the network.
        stated: the kind that its source states, which is kept if it fits.
    """
    if config.relpos_per_layer:
        return "umt5"
    # transformers never scales the outputs of an mT5.
    fits = not config.logits_via_embedding
    is_mt5 = stated == "mt5" or (stated is None and config.vocab_size in _MT5_ROWS)
    return "mt5" if fits and is_mt5 else "t5"


def settings_of(
    config: T5Config,
    dtype: str,
    *,
    kind: str | None = None,
    special: SpecialIds = _SPECIAL[0],
) -> dict[str, Any]:
    """The config.json of a network with tensors of type `dtype`, as `network` reads."""
    transformers = quiet.import_transformers()

    kind = kind_of(config, kind)
    activation, *gate = config.mlp_activations
    if gate not in ([], ["linear"]):
        raise InputError(
            f"mlp_activations {config.mlp_activations}: transformers has no T5 with "
            "them. Only one activation, or one and 'linear', can be exported."
        )
    written = transformers.AutoConfig.for_model(
        kind,
        vocab_size=config.vocab_size,
        d_model=config.emb_dim,
        d_kv=config.head_dim,
        d_ff=config.mlp_dim,
        num_layers=config.num_encoder_layers,
        num_decoder_layers=config.num_decoder_layers,
        num_heads=config.num_heads,
        relative_attention_num_buckets=config.relpos_num_buckets,
        relative_attention_max_distance=config.relpos_max_distance,
        dropout_rate=config.dropout_rate,
        layer_norm_epsilon=config.norm_epsilon,
        # Ungated, transformers' "gelu" is the exact one; gated it is ours.
        feed_forward_proj=f"gated-{activation}"
        if gate
        else _EXPORTED.get(activation, activation),
    ).to_dict()
    # transformers ignores its arguments for both; see the module `huggingface`.
    tied = config.logits_via_embedding
    written |= {
        "architectures": [f"{kind.upper()}ForConditionalGeneration"],
        "tie_word_embeddings": tied,
        "scale_decoder_outputs": tied,
        "decoder_start_token_id": 0,
        "pad_token_id": special.pad_id,
        "eos_token_id": special.eos_id,
        "dtype": dtype,
    }
    for noise in ("_name_or_path", "id2label", "label2id"):
        written.pop(noise, None)
    return written


def write_settings(
    folder: pathlib.Path,
    config: T5Config,
    dtype: str,
    *,
    kind: str | None = None,
    special: SpecialIds = _SPECIAL[0],
) -> None:
    """Writes config.json and generation_config.json.

    Args:
        folder: the folder to write into.
        config: the network.
        dtype: type of the tensors.
        kind: the `model_type` of the source, which is kept if the network fits it.
        special: the ids of padding and EOS.
    """
    transformers = quiet.import_transformers()

    written = settings_of(config, dtype, kind=kind, special=special)
    write_json(folder / "config.json", written)
    transformers.GenerationConfig(
        pad_token_id=special.pad_id,
        eos_token_id=special.eos_id,
        decoder_start_token_id=0,
    ).save_pretrained(folder)


def write_card(
    folder: pathlib.Path, text: str, *, base: str | None, library: str = "transformers"
) -> None:
    """Writes the model card README.md of weights that `library` loads."""
    from huggingface_hub import ModelCard, ModelCardData

    data = ModelCardData(
        library_name=library,
        pipeline_tag="text-generation",
        base_model=base,
        tags=["t5", "specialize", "chain-of-thought", "distillation"],
    )
    ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}").save(folder / "README.md")
