"""How each engine runs a recipe."""
