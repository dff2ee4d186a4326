"""Our random weights as a Hugging Face model (needs torch and transformers)."""

import pathlib
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

from specialize.checkpoints import lazy_tensors
from specialize.checkpoints.formats import huggingface, huggingface_companions
from specialize.student.network.transformer import T5Config


def build(config: T5Config, params: dict[str, Any], folder: pathlib.Path):
    """Exports `params` and lets transformers load the folder by itself."""
    import transformers

    tensors = {
        name: lazy_tensors.from_array(np.asarray(value))
        for name, value in flatten_dict(params, sep="/").items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    huggingface.write_weights(folder, tensors)
    huggingface_companions.write_settings(folder, config, "float32")
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder)
    return model.eval()


def run(model, x: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Encoder hidden states and decoder logits; ids 0 are padding on both sides."""
    import torch

    y = np.concatenate([np.zeros_like(t[:, :1]), t[:, :-1]], axis=1)
    with torch.no_grad():
        found = model(
            input_ids=torch.tensor(x, dtype=torch.long),
            attention_mask=torch.tensor(x != 0, dtype=torch.long),
            decoder_input_ids=torch.tensor(y, dtype=torch.long),
            decoder_attention_mask=torch.tensor(t != 0, dtype=torch.long),
        )
    return found.encoder_last_hidden_state.numpy(), found.logits.numpy()


def generate(model, x: np.ndarray, length: int, **options: Any) -> np.ndarray:
    """Token ids [B length] without the start token; 0 after the end."""
    import torch

    with torch.no_grad():
        found = model.generate(
            input_ids=torch.tensor(x, dtype=torch.long),
            attention_mask=torch.tensor(x != 0, dtype=torch.long),
            max_new_tokens=length,
            do_sample=False,
            # Configurations without one have EOS pad what has ended.
            pad_token_id=0,
            **options,
        ).numpy()
    tokens = np.zeros((len(x), length), np.int64)
    tokens[:, : found.shape[1] - 1] = found[:, 1:]
    # transformers fills beams with `pad_token_id or eos_token_id`: 0 means EOS there.
    ends = tokens == options.get("eos_token_id", model.config.eos_token_id)
    return np.where(np.cumsum(ends, axis=1) - ends > 0, 0, tokens)
