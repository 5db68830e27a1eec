"""The parts of a live model that its routes share."""

from __future__ import annotations

import os
from dataclasses import dataclass

from p2u.client.live.connection import Connection
from p2u.client.live.listeners import Listeners
from p2u.client.live.phase import LiveStatus
from p2u.client.live.pins import Pins
from p2u.client.live.plan import LivePlan
from p2u.client.transfer.control import Stop
from p2u.stores import Store


@dataclass(frozen=True, slots=True)
class LiveParts:
    """One of each, made by `make_parts`.

    Attributes:
        plan: The options.
        stop: Called to cancel.
        connection: To the package.
        status: Phase, fault and state.
        pins: On the states.
        listeners: The user's functions.
    """

    plan: LivePlan
    stop: Stop
    connection: Connection
    status: LiveStatus
    pins: Pins
    listeners: Listeners


def make_parts(
    source: str | os.PathLike[str] | Store, plan: LivePlan, early: Store | None
) -> LiveParts:
    """The parts of a new live model.

    Args:
        source: Path or URL of the package, or an open store.
        plan: The options.
        early: This source, open already, for the first attempt.

    Raises:
        UsageError: An argument is wrong.
        NotFoundError: A local package that does not exist.
    """
    stop, pins = Stop(), Pins(plan.patience)
    connection = Connection(source, plan.transfer, stop, early)
    status = LiveStatus(stop, connection.package.url, plan.follow)
    stop.on_call(pins.wake)
    return LiveParts(plan, stop, connection, status, pins, Listeners(status))
