"""Markdown, LaTeX and rare characters as text that the student's vocabulary can write.

`table` is the stated table, `machine` applies it from left to right, `tokens` applies
it to a teacher's tokens and alternatives alike, and `writer` is the policy.
"""
