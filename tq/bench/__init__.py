"""Measures the system against what it promises.

`tq bench limiter` lives through hours of an endpoint's troubles in a simulation: time, the endpoint
and the jobs are made up, the limiter is the one that workers use (see `limiter.py`).
"""
