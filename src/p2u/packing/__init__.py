"""The publisher's side: from a model to a package, and from version to version."""
