"""Agents that come along: a real job to run with no account anywhere."""
