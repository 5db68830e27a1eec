"""How many bits per weight the base spends on each tensor."""
