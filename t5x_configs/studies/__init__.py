"""What people launch: includes and UPPER_CASE values."""
