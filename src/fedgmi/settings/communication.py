"""Settings of what becomes of messages between clients and server."""

from __future__ import annotations

from fedgmi.settings.base import BelowOne, Section


class CommunicationSettings(Section):
    """What becomes of messages on their way.

    Attributes:
        lost: The chance that a client is lost in a round: it is asked once, its reply does not come, and it is absent
            until the next round. In simulation alone; a deployment's sites fail by themselves.
    """

    lost: BelowOne = 0.0
