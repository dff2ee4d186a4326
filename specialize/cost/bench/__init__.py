"""What a step, a batch or a decoded text costs: measured."""
