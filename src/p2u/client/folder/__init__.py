"""A model in a folder: pull it, watch for versions, verify it."""
