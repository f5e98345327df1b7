"""What can go wrong on a gateway, and what happens next.

```
GatewayError
├── ConfigError              the service does not start; the message names file and key
├── AcquisitionError
│   └── SourceUnavailable    retried with back-off, for ever
│       └── ServerUntrusted  the same; the message gives the certificate's fingerprint and what to do
├── JournalError             the service stops; nothing that is not committed was acknowledged
├── HistorianError           the page is written again with back-off, for ever; its reader stays where it is
├── ModelError
│   ├── BundleRefused        the new bundle is not installed, the current one stays live
│   └── InferenceFailed      the window is stored without a state
└── DeliveryError
    ├── UploadDeferred       the segment is kept and sent again; carries the wait in seconds
    └── UploadRefused        the segment is kept aside, with the reason
```

A channel that cannot be had and history that cannot be read are data, not errors: the first is named in ``/health`` and
tried again, the second is a gap record.
"""

from __future__ import annotations


class GatewayError(Exception):
    """Everything a gateway raises on purpose."""


class ConfigError(GatewayError):
    """The configuration cannot be used; the service does not start."""


class AcquisitionError(GatewayError):
    """Values cannot be got from a server as asked."""


class SourceUnavailable(AcquisitionError):
    """The server cannot be reached or used now; it is tried again, for ever."""


class ServerUntrusted(SourceUnavailable):
    """The server's certificate is not on the trust list."""


class JournalError(GatewayError):
    """The journal cannot be written or read."""


class HistorianError(GatewayError):
    """The historian did not take, or give, what it was asked for."""


class ModelError(GatewayError):
    """A bundle, or what it is asked to compute, cannot be used."""


class BundleRefused(ModelError):
    """A bundle is not installed; the one that is live stays live."""


class InferenceFailed(ModelError):
    """A model gave no answer for a window."""


class DeliveryError(GatewayError):
    """A segment did not reach the cloud."""


class UploadDeferred(DeliveryError):
    """The cloud cannot take the segment now.

    Attributes:
        wait_s: Seconds to wait before the next try.
        answered: Whether the cloud said so itself; otherwise it was not reached, or did not answer.
    """

    def __init__(self, message: str, wait_s: float, *, answered: bool = False) -> None:
        super().__init__(message)
        self.wait_s = wait_s
        self.answered = answered


class UploadRefused(DeliveryError):
    """The cloud will not take the segment; asking again changes nothing.

    Attributes:
        reason: The cloud's word for it, such as ``conflict``, ``clone`` or ``chain``; empty when it gave none.
    """

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason
