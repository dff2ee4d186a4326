"""How each type of answer is read, after a mark and without one."""
