"""Measures the system against what it promises.

`tq bench limiter` lives through hours of an endpoint's troubles in a simulation: time, the endpoint
and the jobs are made up, the limiter is the one that workers use (see `limiter.py`).

All others measure real processes on the machine at hand, in a place of their own (`workbench.py`), by
what Linux says that they have used (`machine.py`), each beside the stock way of doing the same: Dramatiq
as it comes, with httpx (`stock/`).
"""
