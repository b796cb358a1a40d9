"""The metrics that there are, with their labels."""

from tq.metrics import FAMILIES

PLAIN = {family.name: set(family.labels) for family in FAMILIES if family.kind != "histogram"}
HISTOGRAMS = {family.name: set(family.labels) for family in FAMILIES if family.kind == "histogram"}
# As they stand in queries.
SERIES = PLAIN | {
    f"{name}_{part}": labels | ({"le"} if part == "bucket" else set())
    for name, labels in HISTOGRAMS.items()
    for part in ("bucket", "sum", "count")
}
