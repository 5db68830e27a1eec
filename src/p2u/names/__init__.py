"""Names of tensors: their forward order, and the names that other formats give them."""
