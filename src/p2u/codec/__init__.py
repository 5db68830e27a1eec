"""The core, and the one function that applies a chunk."""
