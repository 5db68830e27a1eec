"""The engine ray: the work of packing in processes, on one machine or on many."""
