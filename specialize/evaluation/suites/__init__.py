"""What is asked: benchmark files as suites of prompts with golds."""
