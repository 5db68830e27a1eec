"""Real transfers over shaped links, and what a client does with them.

`offer.prepare` makes what a server offers, `transfers.transfer` lets real clients fetch it over a
`spec.LinkSpec`. `streams.stream` says what becomes of requests meanwhile (`streams.stream_live`: of
real ones), `load_test.serving` how fast and how large a model is while it refines and after;
`items` makes labelled items for these. Namespaces need Linux and root: see `link.check_support`.
"""
