"""Weights: saved, restored, converted."""
