"""A package as data (SPEC.md sections 2 to 5); pure, so no file is read or written."""
