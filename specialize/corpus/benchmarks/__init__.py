"""The benchmarks: a table of what is known about each, and one reader per module."""
