"""Decoding of texts on the mesh; a T5 checkpoint as a teacher."""
