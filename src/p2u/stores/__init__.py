"""Stores: read the objects of a package by key and byte range."""

from __future__ import annotations

from p2u.stores.base import Store, StoreOptions
from p2u.stores.forwarding import Forwarding
from p2u.stores.local import LocalStore
from p2u.stores.schemes import SCHEMES, open_store
from p2u.stores.throttle import RateLimiter, ThrottledStore, parse_rate

__all__ = [
    "SCHEMES",
    "Forwarding",
    "LocalStore",
    "RateLimiter",
    "Store",
    "StoreOptions",
    "ThrottledStore",
    "open_store",
    "parse_rate",
]
