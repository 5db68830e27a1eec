"""``p2u eval``: what a model can do after so many bytes and seconds, beside its rivals.

Extra ``p2u-models[eval]``. Nothing outside this package imports it but the command line.
"""
