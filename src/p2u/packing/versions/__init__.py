"""From one version to the next: pair tensors, find differences, make the update."""
