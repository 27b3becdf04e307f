"""The way from a notebook to a cluster: check an agent as FlytePropeller would use it, and export it with all that serves it there."""
