"""Adapters: one per library that runs models, each importing its library when it is used."""
