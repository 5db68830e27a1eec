"""Allocate the bits of a base: choose an offset for each tensor."""
