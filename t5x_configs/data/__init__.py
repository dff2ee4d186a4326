"""What a run learns from or is judged on: tasks, lengths, suites."""
