"""The local disk: locks, durable writes, atomic replacement, scratch folders, and its errors."""
