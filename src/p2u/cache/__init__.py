"""The cache: chunks of remote packages, kept for the next start and for other processes."""
