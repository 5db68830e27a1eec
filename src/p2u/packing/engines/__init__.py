"""Engines: they run the work of packing in threads of this process, or in processes elsewhere."""
