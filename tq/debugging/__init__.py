"""What a process tells about itself: its threads, its memory, and where its CPU time goes."""

from tq.debugging.answers import PREFIX, Answer, answer, refused
from tq.debugging.server import DebugServer

__all__ = ["PREFIX", "Answer", "DebugServer", "answer", "refused"]
