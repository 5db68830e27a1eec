"""Encode a chunk for the base and all refinements, and read back what was written."""
