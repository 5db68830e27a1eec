"""The folder of a package on the local disk: made, locked, changed in one step."""
