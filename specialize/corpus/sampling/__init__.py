"""Sampling: asking a served teacher, and storing its responses."""
