"""Optimizers, the state of a run, and one optimizer step."""
