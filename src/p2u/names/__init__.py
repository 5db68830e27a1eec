"""Names of tensors: their forward order, and what different formats call the same one."""
