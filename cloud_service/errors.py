"""What can go wrong in the cloud service, and what happens next.

```
CloudError
├── ConfigError           the service does not start; the message names file and key
├── EnrollmentError       no certificate is made; the message says why
├── IngestError           the upload is answered with ``status``, reason and field, and counted as rejected
│   ├── NotEntitled       403: the certificate is unknown, revoked, or names another gateway
│   ├── BodyRefused       400, 408, 411, 413: cut off, too slow, of unknown length, too large; the body is not kept
│   ├── SegmentRejected   422: the body is not the segment it says it is
│   ├── Busy              429, 503: too many at once; it may come again after ``wait_s``
│   ├── RequestRejected   422: what a gateway says of a data request does not fit (`cloud_service.requests.errors`)
│   ├── RequestIncomplete 409: a request is said to be done, and not all of it is there (the same)
│   ├── ChainBroken       409: the segment does not follow the one before it, or is not followed by the one after
│   └── Quarantined       409, and the body is kept for an operator to look at
│       ├── RangeConflict     pages are held with other content; the gateway was cloned or restored
│       └── CloneRefused      an older journal sends new pages after a newer one of the same gateway came
├── LedgerError           a command on the ledger cannot be done; the message says what is as it was
├── RequestRefused        nothing is asked of a gateway; the message says why (`cloud_service.requests.errors`)
├── TrainingFailed        no version is registered; what is live stays
├── EvaluationFailed      a data set is missing or cannot be used; nothing is evaluated
├── ArchiveUnreadable     a file is no bundle; nothing is rolled out
├── CollectionMissing     the collection wearsight.fleet is nowhere; nothing is rolled out
├── RolloutError          Ansible cannot run on the inventory; no gateway was touched
├── RegistryError         the version keeps its status; the message says which one that is
└── RecordRejected        a maintenance record is not stored; the message names its field
```
"""

from __future__ import annotations


class CloudError(Exception):
    """Everything the cloud service raises on purpose."""


class ConfigError(CloudError):
    """The configuration cannot be used; the service does not start."""


class EnrollmentError(CloudError):
    """A gateway cannot be given, or be denied, an identity."""


class IngestError(CloudError):
    """An upload is not taken.

    Attributes:
        status: The HTTP status it is answered with.
        reason: One word for metrics.
        field: What is at fault: a header, a part of the address, or a field of the body.
    """

    status = 400
    reason = "refused"
    field = "body"

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field or self.field


class NotEntitled(IngestError):
    """The client certificate does not entitle to this upload."""

    status = 403
    reason = "not_entitled"
    field = "certificate"


class BodyRefused(IngestError):
    """The body is not read, or not to its end."""

    reason = "body"

    def __init__(self, message: str, status: int, field: str | None = None) -> None:
        super().__init__(message, field)
        self.status = status


class SegmentRejected(IngestError):
    """The body is not the segment that the address and the header say it is."""

    status = 422
    reason = "undecodable"


class Busy(IngestError):
    """There is no room for the upload now.

    Attributes:
        wait_s: Seconds after which it may come again.
    """

    reason = "busy"

    def __init__(self, message: str, status: int, field: str, wait_s: int) -> None:
        super().__init__(message, field)
        self.status = status
        self.wait_s = wait_s


class ChainBroken(IngestError):
    """A segment and its neighbour do not name each other."""

    status = 409
    reason = "chain"
    field = "previous"


class Quarantined(IngestError):
    """The upload does not belong to the journal that is known, and is kept aside."""

    status = 409


class RangeConflict(Quarantined):
    """Pages of the segment are held already, with other content."""

    reason = "conflict"
    field = "pages"


class CloneRefused(Quarantined):
    """A journal that was superseded sends new pages."""

    reason = "clone"
    field = "epoch"


class LedgerError(CloudError):
    """A command on the ledger cannot be done."""


class TrainingFailed(CloudError):
    """No bundle came of a training; nothing is registered."""


class EvaluationFailed(CloudError):
    """A data set is missing or cannot be used, or a package that is needed is; the message says what to do."""


class ArchiveUnreadable(CloudError):
    """A file is no bundle at all; nothing is rolled out."""


class CollectionMissing(CloudError):
    """The collection is neither in the source tree nor installed; nothing is rolled out."""


class RolloutError(CloudError):
    """Ansible could not be run on this inventory at all; no gateway was touched."""


class RegistryError(CloudError):
    """A bundle version cannot be stored or moved to the status asked for."""


class RecordRejected(CloudError):
    """A maintenance record does not hold what it must."""
