"""Batches, optimizers and the loop."""
