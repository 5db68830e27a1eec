"""Which base code each weight gets: nearest, balanced, or calibrated."""
