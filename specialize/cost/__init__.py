"""Predicts the cost of a run (plan) and measures this machine (bench)."""
