"""Google Drive's REST API v3: only the calls this project needs, paced, retried and verified."""
