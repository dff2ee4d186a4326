"""Alignment: a teacher's alternatives become teacher rows over student ids."""
