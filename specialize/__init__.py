"""Concentrate a large teacher's chain of thought in a small Flan-T5.

The way of one example, and the room where each step is done:

    corpus       question -> sampled completion -> verified -> aligned -> record
    student      T5 in Flax Linen, the sparse top-k KL, decoding, T5X's model contract
    sharding     mesh, logical rules, NamedShardings
    config       gin: parse, lint, origin of every value
    checkpoints  Orbax, Hugging Face and T5X weights, one table of names
    inference    text in, text out on the mesh
    evaluation   suites, judges, scores with intervals, report
    training     feature converter and packer, optimizers, train()
    cost         predicted (plan) and measured (bench)
    quickstart   the whole way on a generated miniature world

A module imports only what stands above it in this list; `errors`, `outputs`, `versions`
and `progress` stand beneath them all. This file imports nothing, so that
`specialize --help` answers at once.
"""

__version__ = "0.2.0"  # setup.py and every report read it here
