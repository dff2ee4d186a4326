"""Checkpoints on disk: Hugging Face, T5X in both layouts, and the arrays in them."""
