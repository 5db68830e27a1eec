"""How an update's chunks are brought into memory: at once, or gathered until a commit."""
