"""The Hugging Face T5 of a bench shape, for the baselines in PyTorch."""

import platform
from importlib import metadata

import torch
import transformers


def build_model(shape, threads):
    """A T5 1.1 with random weights and an untied head; `threads` for one operation."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=shape.vocabulary,
        d_model=shape.emb_dim,
        d_kv=shape.head_dim,
        d_ff=shape.mlp_dim,
        num_heads=shape.num_heads,
        num_layers=shape.layers,
        num_decoder_layers=shape.layers,
        feed_forward_proj="gated-gelu",
        dropout_rate=shape.dropout,
        decoder_start_token_id=0,
    )
    model = transformers.T5ForConditionalGeneration(config)
    # transformers 5 builds every fresh T5 with a tied head.
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    return model.to(getattr(torch, shape.dtype))


def facts(**more):
    names = ("torch", "transformers", "numpy")
    return {
        "versions": {"python": platform.python_version()}
        | {name: metadata.version(name) for name in names},
        "device": f"CPU, {torch.get_num_threads()} threads",
        **more,
    }
