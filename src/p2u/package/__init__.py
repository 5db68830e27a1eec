"""What a package holds, as data: SPEC.md sections 2 to 5. Pure: no file is read or written."""
