"""The publisher's side: from a model to a package, from version to version."""
