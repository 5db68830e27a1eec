"""Fetching: one package, its objects and the chunks of its updates, checked."""
