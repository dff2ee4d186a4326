"""Suites, judges, scores with intervals, the report."""
