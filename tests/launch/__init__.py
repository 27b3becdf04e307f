"""The launch: what Binder builds and opens, and the wheel in clean environments. Minutes of downloads, so only where it is asked for."""
