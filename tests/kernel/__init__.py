"""Tests in a real kernel: see ``harness.py``."""
