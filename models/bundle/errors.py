"""Why a bundle is refused. Whatever the cause, the bundle that was live stays live.

```
BundleError
├── ArchiveMalformed      not an archive as `pack` writes it, or too large
├── SignatureInvalid      not signed, or not by the key that is trusted here
├── DigestMismatch        a file is not what the manifest says
├── ManifestMismatch      the manifest and the files, or this software, do not fit together
├── FeatureHashMismatch   this software computes other features than the models were trained on
├── GoldenMismatch        models or features answer differently on this machine
├── VersionNotNewer       not newer than what is live
└── Expired               past its not-after
```
"""

from __future__ import annotations


class BundleError(Exception):
    """A bundle is refused; the live one stays."""


class ArchiveMalformed(BundleError):
    """The bytes are not an archive as `pack` writes it, or are beyond a limit."""


class SignatureInvalid(BundleError):
    """The manifest is not signed by the trusted key."""


class DigestMismatch(BundleError):
    """A file is missing, too many, or not the one that was signed."""


class ManifestMismatch(BundleError):
    """The manifest does not decode, or does not fit the files or this software."""


class FeatureHashMismatch(BundleError):
    """This software computes other features than the models were trained on."""


class GoldenMismatch(BundleError):
    """Features or models answer differently here than where the bundle was made."""


class VersionNotNewer(BundleError):
    """The bundle is not newer than the live one."""


class Expired(BundleError):
    """The bundle is past its not-after."""
