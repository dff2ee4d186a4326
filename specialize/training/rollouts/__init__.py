"""On-policy distillation: the student writes, and the teacher reads what it wrote."""
