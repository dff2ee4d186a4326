"""`train()`: the loop, its evaluations and its interruptions."""

from specialize.renamed import names_of

__getattr__ = names_of(__name__)  # this name was a module in version 0.1
