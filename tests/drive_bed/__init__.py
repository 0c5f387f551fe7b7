"""The parts of the test server: Google Drive's REST API v3 and Google's token endpoints on loopback."""
