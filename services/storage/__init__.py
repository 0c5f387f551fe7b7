"""Disk usage and known caches; later clean-up plans and undo. Stands alone among the services."""
