"""Alerts: rules and dashboard as files, the webhook, the dead man's switch."""
