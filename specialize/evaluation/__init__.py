"""Suites, scores with intervals, and the report."""
