"""The client: fetch a package's updates into a folder or into memory."""
