"""Tasks: what a question, an answer and a prompt are, as small files."""
