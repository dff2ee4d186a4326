"""Gin files: models, data, runs, recipes."""
