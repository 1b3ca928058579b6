"""Chaos: a matrix of faults, each with real processes and a real PostgreSQL. See ``harness``."""
