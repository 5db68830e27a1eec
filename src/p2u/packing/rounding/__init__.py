"""Choose the base code of each weight: nearest, balanced or calibrated."""
