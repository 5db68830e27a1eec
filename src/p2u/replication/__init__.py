"""Copies of a package in stores: published, mirrored, rid of what no version needs."""
