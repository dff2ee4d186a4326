"""Asking a served teacher: requests, limits, responses in SQLite, the panel."""
