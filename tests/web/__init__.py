"""What the system tells over HTTP: the app against a real Redis, asked as a caller asks."""
