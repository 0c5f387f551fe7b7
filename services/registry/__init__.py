"""Versions of models: an append-only log of records, folded into models, versions and aliases."""
