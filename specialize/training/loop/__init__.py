"""`train()`: the loop, its evaluations and its interruptions."""
