"""What is wrong with a request for raw data."""

from __future__ import annotations

from cloud_service.errors import CloudError


class RequestRefused(CloudError):
    """Nothing is asked for; the message says why.

    Attributes:
        field: What is at fault: ``asset_id``, ``channels``, ``start``, ``end`` or ``request_id``.
    """

    def __init__(self, message: str, field: str) -> None:
        super().__init__(message)
        self.field = field
