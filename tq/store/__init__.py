"""All state, in Redis. Whatever must change together changes in one script."""

from tq.store.store import Store
from tq.store.transport import QueuedMessage, QueuedMessages, Transport

__all__ = ["QueuedMessage", "QueuedMessages", "Store", "Transport"]
