"""What a run will cost (plan) and what it did cost (bench)."""
