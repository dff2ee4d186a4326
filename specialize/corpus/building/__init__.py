"""From completions to a corpus: verify, align, render, write."""
