"""Measures the time and memory of a step, a batch or a decoded text."""
