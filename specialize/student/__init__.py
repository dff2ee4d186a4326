"""Numbers: the T5 network, its losses, decoding and the T5X model contract."""
