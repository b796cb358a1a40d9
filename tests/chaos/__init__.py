"""Everything that can break does, at random moments, and then it is asked whether anybody was missed.

    make chaos ROUNDS=5 SEED=1                                                # or: python -m tests.chaos --help
    .venv/bin/python -m tests.chaos --mutant "recovery switched off"          # must be caught: exit code 1

`schedule` says when what breaks; `conduct` lives through a round of real processes, in which `breaker`
has the faults happen, and `orders` tells the system things and writes them into the `book`. `watch` and
`endpoint` see what it does. `audit` holds all that against what the system has stored.

What a seed repeats is the schedule: which process is where at that moment is never quite the same.
"""
