"""What a run will cost: memory, hours and price, without hardware."""
