"""Released connectors, unmodified, in real kernels."""
