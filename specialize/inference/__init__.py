"""Text in, text out, on the mesh."""
