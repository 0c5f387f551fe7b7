"""Fixtures of this folder's tests."""

from tests.drive.google_bed import config, signed_in

__all__ = ["config", "signed_in"]
