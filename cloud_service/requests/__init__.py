"""Raw data that an upload policy kept back, asked for by asset and interval, and sent by the gateway as a supplement.

A supplement is a segment: its epoch is the request's id, its pages are the parts of the interval. So it is stored
once, resumed and entered in the ledger by the code that does so with every other segment.
"""

from cloud_service.requests.supplement import is_request

__all__ = ["is_request"]
