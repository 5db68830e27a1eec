"""Stores: the objects of a package by key and byte range, to read and to write."""

from __future__ import annotations

from p2u.stores.base import Store, StoreOptions
from p2u.stores.forwarding import Forwarding
from p2u.stores.local import LocalStore
from p2u.stores.schemes import SCHEMES, open_store, open_writable
from p2u.stores.throttle import RateLimiter, ThrottledStore, parse_rate
from p2u.stores.writable import ABSENT, StoredObject, WritableStore

__all__ = [
    "ABSENT",
    "SCHEMES",
    "Forwarding",
    "LocalStore",
    "RateLimiter",
    "Store",
    "StoreOptions",
    "StoredObject",
    "ThrottledStore",
    "WritableStore",
    "open_store",
    "open_writable",
    "parse_rate",
]
