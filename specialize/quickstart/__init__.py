"""The whole method on a miniature world."""
