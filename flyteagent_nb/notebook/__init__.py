"""What a person touches: the magics, their views, and plain calls of tasks in a notebook."""
