"""Greedy search, sampling and beam search."""
