"""The target "ray": a job on a Ray cluster, spoken to over its Jobs API."""
