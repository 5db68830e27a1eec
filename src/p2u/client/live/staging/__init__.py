"""Stage an update for its commit: as decoded copies, as verified chunks, or not at all."""
