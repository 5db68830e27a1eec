"""The native core, and the one function that applies a chunk."""
