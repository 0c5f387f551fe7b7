"""What only a real account can show: ``make test-live`` (docs/unverified.md)."""
