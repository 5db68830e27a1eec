"""A live model: in memory, and refined while it is in use."""
