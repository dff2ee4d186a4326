"""Attention: plain, fused on a GPU, and T5's relative bias."""
