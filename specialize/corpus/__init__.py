"""Words: problems, prompts, completions, alignment, records. No jax here."""
