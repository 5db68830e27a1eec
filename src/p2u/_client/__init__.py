"""The client's parts: what `p2u.pull`, `p2u.replica` and `p2u.verify` share."""
