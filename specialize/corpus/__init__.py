"""Text data: problems, prompts, completions, alignment, records. No jax here."""
