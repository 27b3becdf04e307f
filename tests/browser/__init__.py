"""Tests in a real browser: see ``harness.py``."""
