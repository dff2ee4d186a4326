"""Verdicts to scores: intervals, paired tests, averages."""
