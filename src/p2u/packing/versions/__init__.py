"""Make version updates: pair tensors, find differences, encode them."""
