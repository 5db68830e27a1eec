"""A package in a store, while versions are added to it."""
