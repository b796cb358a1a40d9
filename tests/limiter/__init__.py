"""The limiter: the rule and the script on a real Redis, the agent by itself, the threads around it."""
