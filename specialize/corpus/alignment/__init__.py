"""Teacher tokens to student pieces: rows of probabilities over student ids."""
