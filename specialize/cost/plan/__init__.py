"""Predicts memory, hours and price of a run, without the hardware."""
