"""What can be wrong with a request for raw data, and with what a gateway says of one."""

from __future__ import annotations

from cloud_service.errors import CloudError, IngestError


class RequestRefused(CloudError):
    """Nothing is asked for; the message says why.

    Attributes:
        field: What is at fault: ``asset_id``, ``channels``, ``start``, ``end`` or ``request_id``.
    """

    def __init__(self, message: str, field: str) -> None:
        super().__init__(message)
        self.field = field


class RequestRejected(IngestError):
    """What a gateway says of a request does not fit."""

    status = 422
    reason = "request"


class RequestIncomplete(IngestError):
    """A request is said to be done, and not all of it is there."""

    status = 409
    reason = "incomplete"
    field = "parts"
