"""Adapters connect live models to libraries, each imported when it is first used."""
