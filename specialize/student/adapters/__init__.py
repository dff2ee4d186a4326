"""Low-rank adapters of the network's projections (LoRA), trained beside frozen weights.

`spec` says which projections have them, `trees` takes a tree of parameters apart.
"""
