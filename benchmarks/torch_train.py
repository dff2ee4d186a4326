"""Baseline: a PyTorch step with a dense [B, L, V] teacher, as the paper trained.

    SPECIALIZE_TORCH_PYTHON=/path/to/python specialize bench train --peers

The top-k rows are scattered into a dense target, and KL(p || q) runs over the whole
vocabulary; AdamW, dropout on. Hugging Face's T5 knows no packing, so its rows are one
example each and as long: the same positions, and no masks to build.
"""

import sys

import torch
from torch_model import build_model, facts

from specialize.cost.bench import protocol
from specialize.cost.bench.batch import packed_batch
from specialize.cost.bench.shapes import shape_named


def build(shape, threads):
    model = build_model(shape, threads).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.0)
    batch = {name: torch.from_numpy(x) for name, x in packed_batch(shape).items()}
    inputs = batch["encoder_input_tokens"].long()
    shifted = batch["decoder_input_tokens"].long()
    ids = batch["decoder_teacher_ids"].long()
    probs = batch["decoder_teacher_probs"]
    weights = batch["decoder_loss_weights"]
    size = (*ids.shape[:2], shape.vocabulary)

    def run():
        target = torch.zeros(size).scatter_add_(-1, ids, probs)
        output = model(input_ids=inputs, decoder_input_ids=shifted)
        logprobs = torch.log_softmax(output.logits.float(), dim=-1)
        divergence = torch.nn.functional.kl_div(logprobs, target, reduction="none")
        loss = (divergence.sum(-1) * weights).sum() / weights.sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.item()

    useful = int((inputs > 0).sum() + (weights > 0).sum())
    return protocol.Case(run, facts(useful_tokens=useful, positions=shape.positions))


if __name__ == "__main__":
    protocol.serve(lambda: build(shape_named(sys.argv[1]), int(sys.argv[2])))
