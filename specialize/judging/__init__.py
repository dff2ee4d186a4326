"""Final answers: where a text states one, what it is, and whether it is right."""
