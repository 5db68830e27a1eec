"""Fetch the objects of a package and the chunks of its updates, and check them."""
