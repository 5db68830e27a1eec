"""Loaders of the data sets, each of which says where to get what is missing."""
