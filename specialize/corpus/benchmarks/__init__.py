"""The benchmarks: a table of facts about each, and one reader per module."""
