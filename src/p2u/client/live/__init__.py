"""A model in memory that sharpens while it is in use."""
