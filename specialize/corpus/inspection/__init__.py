"""Inspection of records and of a whole corpus."""
