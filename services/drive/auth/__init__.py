"""Signing in to Google: by browser, by device, by what the machine already has."""
