"""Faults put into a copy of the system, each of which the audit must notice, by the bar that is there for it.

    python -m tests.chaos --mutant "recovery switched off" --rounds 3      # must exit with 1

A fault whose moment is too short to be hit by chance is given a pause, as a slow machine would make.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("tq", "actors", "middleware")
PAUSE = "__import__('time').sleep(1.0)"
# Of three workers one distributes, a step in many seconds: the right one is to be killed within a step.
LONG_PAUSE = "__import__('time').sleep(3.0)"

ENQUEUE = """-- enqueue_taken: put messages into their queues.
-- ARGV: now, then per message three texts: queue, id, body
for i = 2, #ARGV, 3 do enqueue(ARGV[i], ARGV[i + 1], ARGV[i + 2]) end
return 0
"""


@dataclass(frozen=True)
class Edit:
    """Where a file says one thing, it is to say another; with nothing to be replaced, the file is new."""

    path: str
    sound: str
    faulty: str


@dataclass(frozen=True)
class Mutant:
    """A fault, and the bars of which it must miss at least one; that it misses others too says less."""

    noticed_by: frozenset[str]
    edits: tuple[Edit, ...]


MUTANTS: dict[str, Mutant] = {
    "cursor moved before enqueue": Mutant(
        frozenset({"lost"}),
        (
            Edit(
                "tq/store/ledger.py",
                '        answer = self._redis.script("fan_out", *arguments)\n',
                "        moving = [*arguments[:4], 0, arguments[5], 0, *arguments[7:10]]\n"
                '        if self._redis.script("fan_out", *moving) in ("moved", "stopped"):\n'
                "            return None\n"
                f"        {LONG_PAUSE}\n"
                "        arguments[2] = step.reached\n"
                '        answer = self._redis.script("fan_out", *arguments)\n',
            ),
        ),
    ),
    "end stored before the call": Mutant(
        frozenset({"lost"}),
        (
            Edit(
                "tq/pipeline/execute.py",
                "            ending, is_gone = _attempt(runtime, envelope, permission)\n",
                "            early = _end(envelope, JobStatus.SUCCESS, permission.now, None)\n"
                "            _until_stored(runtime, lambda: runtime.store.ledger.finish([early]))\n"
                "            ending, is_gone = _attempt(runtime, envelope, permission)\n",
            ),
        ),
    ),
    "claim without fence": Mutant(
        frozenset({"duplicate_runs"}),
        (
            Edit(
                "tq/pipeline/tick.py",
                "    look = first = planning.look()\n",
                f"    look = first = planning.look()\n    {PAUSE}\n",
            ),
            Edit(
                "tq/store/lua/claim.lua",
                "  if seen == '' or due_at[k] == seen then\n",
                "  if true then\n",
            ),
        ),
    ),
    "one user in a thousand passed over": Mutant(
        frozenset({"lost"}),
        (
            Edit(
                "tq/pipeline/distribute.py",
                "        if number not in left_out:\n",
                "        if number not in left_out and page.places[number] % 1000:\n",
            ),
        ),
    ),
    "agenda entry removed before enqueue": Mutant(
        frozenset({"mended"}),
        (
            Edit("tq/store/lua/enqueue_taken.lua", "", ENQUEUE),
            Edit("tq/store/lua/release.lua", "local released = 0\n", "local released, taken = 0, {}\n"),
            Edit(
                "tq/store/lua/release.lua",
                "    if body and redis.call('HEXISTS', K.open(run), user) == 1 then\n      enqueue(queue, id, body)\n",
                "    if body and redis.call('HEXISTS', K.open(run), user) == 1 then\n"
                "      for _, text in ipairs({ queue, id, body }) do table.insert(taken, text) end\n",
            ),
            Edit(
                "tq/store/lua/release.lua",
                "return { released, #due, redis.call('ZCARD', K.agenda()) }",
                "return { released, #due, redis.call('ZCARD', K.agenda()), unpack(taken) }",
            ),
            Edit(
                "tq/store/agenda.py",
                '            released, due, left = self._redis.script("release", limit)\n',
                '            released, due, left, *taken = self._redis.script("release", limit)\n'
                "            if taken:\n"
                f"                {PAUSE}\n"
                '                self._redis.script("enqueue_taken", *taken)\n',
            ),
        ),
    ),
    "recovery switched off": Mutant(
        frozenset({"unaccounted", "max_recovery_s"}),
        (
            Edit(
                "actors/broker.py",
                "        recovered, is_new, server = self._show(self.broker_id)\n",
                "        return 0\n        recovered, is_new, server = self._show(self.broker_id)\n",
            ),
        ),
    ),
}


def copied(folder: Path, mutant: str | None = None) -> Path:
    """A copy of the packages, which no edit of ours reaches any more; with a fault in it, if one is named."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    for edit in MUTANTS[mutant].edits if mutant else ():
        _apply(edit, folder)
    return folder


def _apply(edit: Edit, folder: Path) -> None:
    file = folder / edit.path
    if not edit.sound:
        file.write_text(edit.faulty)
        return
    text = file.read_text()
    if text.count(edit.sound) != 1:
        raise AssertionError(f"{edit.path} has not, or not once: {edit.sound}")
    file.write_text(text.replace(edit.sound, edit.faulty))
