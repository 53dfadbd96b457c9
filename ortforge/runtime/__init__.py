"""From wheels to an environment, and supervised workers inside it."""
