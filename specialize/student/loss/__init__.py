"""Losses over sparse teacher rows: plain, fused, vocabulary-sharded."""
