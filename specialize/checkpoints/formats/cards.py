"""The texts of the model cards beside the weights that `convert` and `merge` write."""

from specialize.checkpoints.source import Source
from specialize.student.network.architecture import T5Config

_USE_IN_TRANSFORMERS = """```python
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

model = AutoModelForSeq2SeqLM.from_pretrained("THIS_FOLDER")
tokenizer = AutoTokenizer.from_pretrained("THIS_FOLDER")
```"""
ADAPTERS = """# Adapters (LoRA) of a T5 encoder-decoder

Written by `specialize convert --to peft`. They belong to the weights `{base}`. The
fingerprint of the matrices is `{fingerprint}`.
{notes}
## Use

```python
from peft import PeftModel
from transformers import AutoModelForSeq2SeqLM

base = AutoModelForSeq2SeqLM.from_pretrained("{base}")
model = PeftModel.from_pretrained(base, "THIS_FOLDER")
```
"""
_USE_IN_T5X = (
    "Name this folder as `INITIAL_CHECKPOINT_PATH` of `specialize`, or its "
    "`checkpoint_<step>` folder under T5X."
)


def whole(
    opened: Source,
    config: T5Config,
    parameters: int,
    digits: str,
    to: str,
    *,
    merged: bool,
) -> str:
    """The card of whole weights.

    Args:
        opened: where they come from.
        config: the network.
        parameters: number of parameters.
        digits: the weight fingerprint.
        to: the format that is written.
        merged: whether they are a mean of several checkpoints.
    """
    step = "" if opened.step is None else f", step {opened.step}"
    rows = {
        "merged from" if merged else "converted from": (
            f"`{opened.path}`" if merged else opened.format + step
        ),
        "parameters": f"{parameters:,}",
        "weights fingerprint": f"`{digits}`",
        "layers": f"{config.num_encoder_layers} + {config.num_decoder_layers}",
        "width / heads / head size / inner": (
            f"{config.emb_dim} / {config.num_heads} / {config.head_dim} / "
            f"{config.mlp_dim}"
        ),
        "feed-forward": " x ".join(config.mlp_activations),
        "vocabulary rows": f"{config.vocab_size:,}",
        "head": "tied to the embedding" if config.logits_via_embedding else "its own",
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    command = "merge" if merged else "convert"
    steps = _USE_IN_TRANSFORMERS if to == "hf" else _USE_IN_T5X
    return (
        "# A T5 encoder-decoder\n\n"
        f"Weights written by `specialize {command}`. The fingerprint is the same in "
        "every format and layout; `specialize convert --source FOLDER` prints it "
        "again.\n\n"
        f"| | |\n|---|---|\n{table}\n\n## Use\n\n{steps}\n"
    )
