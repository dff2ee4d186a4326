"""The files beside the weights of a Hugging Face folder.

They are config.json (the network of the tensors), generation_config.json, the
tokenizer files and the model card.
"""

import json
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

from specialize.errors import InputError
from specialize.outputs import write_json
from specialize.student.network.architecture import T5Config

TOKENIZER_FILES = (
    "spiece.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
_ACTIVATIONS = {"gelu_new": "gelu", "swish": "silu"}


def read_config(path: pathlib.Path) -> dict[str, Any]:
    """Reads config.json and refuses another architecture.

    Raises:
        InputError: the file is missing, is not JSON, or describes another model.
    """
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(
            f"{path.parent} has no config.json, which describes the network. Add it."
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not JSON ({error}). Fetch it again.") from error
    kind = settings.get("model_type") if isinstance(settings, dict) else None
    if kind != "t5":
        raise InputError(
            f"{path} describes a {kind!r} model; only 't5' (T5, Flan-T5, UL2) can be "
            "read. Name another checkpoint."
        )
    return settings


def network(settings: Mapping[str, Any], where: pathlib.Path) -> T5Config:
    """The network that a config.json describes.

    Raises:
        InputError: a field is missing, or has a value that T5 does not have.
    """
    needed = ("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads")
    missing = [name for name in needed if not isinstance(settings.get(name), int)]
    if missing:
        raise InputError(f"{where}: config.json lacks {', '.join(missing)}.")
    projection = str(settings.get("feed_forward_proj", "relu"))
    gated = projection.startswith("gated-")
    activation = projection.removeprefix("gated-")
    activation = _ACTIVATIONS.get(activation, activation)
    return T5Config(
        vocab_size=settings["vocab_size"],
        emb_dim=settings["d_model"],
        num_heads=settings["num_heads"],
        num_encoder_layers=settings["num_layers"],
        num_decoder_layers=settings.get("num_decoder_layers") or settings["num_layers"],
        head_dim=settings["d_kv"],
        mlp_dim=settings["d_ff"],
        mlp_activations=(activation, "linear") if gated else (activation,),
        dropout_rate=float(settings.get("dropout_rate", 0.1)),
        logits_via_embedding=True,
        relpos_num_buckets=settings.get("relative_attention_num_buckets", 32),
        relpos_max_distance=settings.get("relative_attention_max_distance", 128),
        norm_epsilon=float(settings.get("layer_norm_epsilon", 1e-6)),
    )


def settings_of(config: T5Config, dtype: str) -> dict[str, Any]:
    """The config.json of a network with tensors of type `dtype`, as `network` reads."""
    import transformers

    activation, *gate = config.mlp_activations
    if gate not in ([], ["linear"]):
        raise InputError(
            f"mlp_activations {config.mlp_activations}: transformers has no T5 with "
            "them. Only one activation, or one and 'linear', can be exported."
        )
    written = transformers.T5Config(
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
        feed_forward_proj=f"gated-{activation}" if gate else activation,
    ).to_dict()
    # transformers ignores its arguments for both; see the module `huggingface`.
    tied = config.logits_via_embedding
    written |= {
        "architectures": ["T5ForConditionalGeneration"],
        "tie_word_embeddings": tied,
        "scale_decoder_outputs": tied,
        "decoder_start_token_id": 0,
        "dtype": dtype,
    }
    for noise in ("_name_or_path", "id2label", "label2id"):
        written.pop(noise, None)
    return written


def copy_companions(source: pathlib.Path | None, target: pathlib.Path) -> list[str]:
    """Copies the tokenizer files of `source`, if any; returns their names."""
    if source is None:
        return []
    found = [name for name in TOKENIZER_FILES if (source / name).is_file()]
    for name in found:
        shutil.copyfile(source / name, target / name)
    return found


def write_tokenizer(vocabulary: pathlib.Path, target: pathlib.Path) -> None:
    """Writes the tokenizer files for a SentencePiece model such as spiece.model.

    Raises:
        InputError: `vocabulary` is not a SentencePiece model.
    """
    import transformers

    try:
        shutil.copyfile(vocabulary, target / "spiece.model")
        tokenizer = transformers.T5Tokenizer.from_pretrained(target, legacy=False)
        tokenizer.save_pretrained(target)
    except Exception as error:
        raise InputError(
            f"{vocabulary} is not a SentencePiece model ({type(error).__name__}: "
            f"{error}). Name the model's spiece.model."
        ) from error


def write_settings(folder: pathlib.Path, config: T5Config, dtype: str) -> None:
    """Writes config.json and generation_config.json."""
    import transformers

    write_json(folder / "config.json", settings_of(config, dtype))
    transformers.GenerationConfig(
        pad_token_id=0, eos_token_id=1, decoder_start_token_id=0
    ).save_pretrained(folder)


def write_card(folder: pathlib.Path, text: str, *, base: str | None) -> None:
    """Writes the model card README.md."""
    from huggingface_hub import ModelCard, ModelCardData

    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-generation",
        base_model=base,
        tags=["t5", "specialize", "chain-of-thought", "distillation"],
    )
    ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}").save(folder / "README.md")
