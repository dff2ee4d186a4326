"""Text in, text out, on the mesh; a T5 checkpoint as a teacher."""
