"""Examples, their order, packed batches, and their way to the devices."""
