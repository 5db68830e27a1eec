"""The package's folder on the local disk: made, locked, changed in one step."""
