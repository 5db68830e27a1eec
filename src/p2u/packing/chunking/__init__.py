"""Cut a model into chunks, and read their bytes."""
