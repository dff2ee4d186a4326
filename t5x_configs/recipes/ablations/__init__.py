"""Small files on top of a recipe: what one ablation changes."""
