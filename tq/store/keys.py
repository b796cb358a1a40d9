"""Every Redis key: its spelling, what it holds, and how long it lives.

Python and Lua take their keys from this one table, so that no second spelling can drift: in
Python `keys.run(run_id)`, in a script `K.run(run_id)`. Kinds of things come first in a key and
ids last, so that no id can make two keys look alike. `|` joins ids; no id may contain it.

A cohort is written `zone|interval`: the interval is `default` or a canonical custom one, the zone
is `*` unless the interval uses the user's (see `lua/cohorts.lua`).
"""

import re
from dataclasses import dataclass

_HOLE = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Key:
    """One family of keys."""

    pattern: str
    type: str
    holds: str
    lifetime: str = "for ever"


RETENTION_DAYS = 90  # counts of closed runs answer "was anybody missed?" for a quarter of a year

# Raised with every change after which an earlier program would misread what is stored.
DATA_VERSION = 5

TABLE = {
    "data_version": Key(
        "data_version", "string", "of all this: the latest `DATA_VERSION` of all programs that have written"
    ),
    # What is declared
    "published": Key("published", "hash", "version and fingerprint of the definitions in force"),
    "definitions": Key("definitions", "hash", "task id → `definition id|canonical interval`"),
    "definition": Key(
        "definition:{definition}", "string", "a task type as JSON", "100 days after it was replaced"
    ),
    # Who has what enabled: both directions, changed together
    "cells": Key("cells:{task}", "hash", "cell `zone|interval` → number of members"),
    "branches": Key("branches:{task}|{cell}", "zset", "starts of the cell's leaves by place"),
    "leaf": Key("leaf:{task}|{cell}|{start}", "zset", "up to 128 users by place, from `start` on"),
    "user_branches": Key("user_branches", "zset", "starts of the leaves of users, by the users' hash"),
    "user_leaf": Key("user_leaf:{start}", "hash", "up to 128 users → `zone +enabled -disabled …`"),
    "departures": Key("departures:{task}", "string", "how often anybody has left a cell of the task"),
    "settings": Key(
        "settings:{task}", "hash", "user → own interval, parameters, reason; only where there are any"
    ),
    "user_pauses": Key(
        "user_pauses", "hash", "`user` or `user|task` → the pause that an operator ordered, as JSON"
    ),
    "moved": Key("moved:{task}", "zset", "users who changed cohort, by when", "an entry 2 days"),
    "rezoned": Key("rezoned", "zset", "users who changed time zone, by when", "an entry 2 days"),
    # When what falls due
    "due": Key("due", "zset", "`task|cohort` by the first instant (ms) whose occurrences nobody has claimed"),
    # Who lives, and whether queues move
    "heartbeat": Key("heartbeat", "hash", "`tick` → when (ms) a tick was last carried out"),
    "beats": Key("beats", "zset", "processes by when (ms) they last showed themselves", "an entry an hour"),
    "processes": Key("processes", "hash", "process → `since|who and what it is, as JSON`", "as in `beats`"),
    "firsts": Key("firsts", "hash", "queue → `since|id` of the message that has been first there since (ms)"),
    # Runs and their ledger
    "runs": Key("runs", "zset", "run ids by claim time (ms)", f"an entry {RETENTION_DAYS} days"),
    "runs_of": Key("runs_of:{task}", "zset", "the same for one task", f"an entry {RETENTION_DAYS} days"),
    "running": Key("running", "set", "runs that have not ended, of all tasks"),
    "active": Key("active:{task}", "set", "runs that have not ended"),
    "last": Key("last:{task}", "hash", "cohort → `run|share` that was claimed last"),
    "run": Key("run:{run}", "hash", "a run and its counters", f"{RETENTION_DAYS} days after its end"),
    "shares": Key(
        "shares:{run}", "hash", "`index:field` of each share", f"{RETENTION_DAYS} days after its end"
    ),
    "open": Key(
        "open:{run}", "hash", "user → `attempt|spent|share|execute_after|parameters` of jobs not ended"
    ),
    "members": Key(
        "members:{run}|{share}",
        "zset",
        "users by place who are in the share whatever their cohort: asked for by name, or moved since its claim",
        "until the run's end",
    ),
    "travelled": Key(
        "travelled:{run}|{share}",
        "hash",
        "user in `members` → when (ms) it had come into the share's cohort by a change of zone, if lately",
        "until the run's end",
    ),
    "totals": Key(
        "totals",
        "hash",
        "`task|kind|what` → what the ledgers of all such runs have counted together, and `runs`",
    ),
    "seen": Key("seen", "hash", "task → what processes have seen of it, as JSON: `metric|…` → numbers"),
    # What is due later
    "agenda": Key(
        "agenda", "zset", "`r|run|user` (retry), `p|run|user` (put off), `d|run` (distribution) by when (ms)"
    ),
    "agenda_messages": Key("agenda_messages", "hash", "agenda entry → queue, id and body of its message"),
    # How fast calls are made
    "limit": Key(
        "limit:{scope}", "string", "rate, breaker and slots of a task, or of `*` for all (packed)", "a day"
    ),
    "places": Key(
        "places:{task}", "zset", "calls under way by when (s) they are given up, if limited at a time"
    ),
    "outcomes": Key("outcomes:{scope}", "hash", "slot of 10 s in the hour → how calls came out", "2 hours"),
    "ordered": Key("ordered", "hash", "scope → the rate that an operator ordered, as JSON"),
    "paused": Key("paused", "hash", "scope → the pause that an operator ordered, as JSON"),
    "past_pauses": Key(
        "past_pauses", "zset", "`scope|since` (ms) of pauses that are over, by their end", "an entry 2 days"
    ),
    "limit_events": Key("limit_events", "channel", "scopes whose slots are void"),
    "wake": Key(
        "wake",
        "channel",
        "queues that have got messages; `agenda` if that has an entry due now; `wake:…` for one process",
    ),
    # What was found stalled
    "mender": Key("mender", "string", "`process|until` (ms) of the one that looks"),
    "begun": Key("begun:{process}", "set", "messages of jobs that a worker process has begun", "1 day"),
    "suspects": Key(
        "suspects", "hash", "`run|user` → how often a job that may kill its process was begun", "7 days"
    ),
    "mended": Key("mended", "hash", "what was found stalled or lost → how often"),
    # What was told of trouble
    "alerts": Key(
        "alerts",
        "hash",
        "check of `tq doctor` → its alert, as JSON; `@watcher` → `process|until` (ms) of the one that tells; "
        "`@heartbeat` → when (ms) the dead man's switch was last held",
    ),
    # What became of jobs
    "results": Key("results:{task}|{user}", "list", "the last results, newest first", "TQ_RESULT_TTL"),
    "failures": Key(
        "failures:{task}", "zset", "`run|user` of failed jobs by their end (ms)", "TQ_RESULT_TTL"
    ),
    "failure": Key("failure:{task}", "hash", "`run|user` → the failed job in full", "TQ_RESULT_TTL"),
    "missed": Key("missed:{task}", "string", "occurrences that were skipped without a run of their own"),
}


class Keys:
    """The keys of one namespace."""

    def __init__(self, namespace: str) -> None:
        self.prefix = f"{namespace}:"

    def __call__(self, name: str, *ids: str) -> str:
        """The key of a family for these ids, in the order of its pattern."""
        holes = iter(ids)
        return self.prefix + _HOLE.sub(lambda _: next(holes), TABLE[name].pattern)

    def fixed(self) -> dict[str, str]:
        """The keys whose name is always the same, with their types."""
        kept = (key for key in TABLE.values() if not _HOLE.search(key.pattern) and key.type != "channel")
        return {self.prefix + key.pattern: key.type for key in kept}

    def lua(self, script: str) -> str:
        """Lua that defines `K` with the families that a script uses."""
        lines = ["local K = {}"]
        for name in sorted(set(re.findall(r"\bK\.(\w+)", script))):
            pattern = TABLE[name].pattern
            holes = _HOLE.findall(pattern)
            text = _HOLE.sub(lambda hole: f"'..{hole[1]}..'", pattern)
            spelling = f"'{self.prefix}{text}'".replace("..''", "")
            lines.append(f"function K.{name}({', '.join(holes)}) return {spelling} end")
        return "\n".join(lines) + "\n"
