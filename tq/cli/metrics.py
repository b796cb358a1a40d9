"""`tq metrics`: the figures that a scrape finds, once."""

from contextlib import closing

from tq.cli.app import app, open_runtime
from tq.cli.output import AsJson, print_json, say


@app.command("metrics")
def show_metrics(as_json: AsJson = False) -> None:
    """Show all metrics as they are now, in Prometheus' text format; for who collects them in another way than by scraping."""
    from tq.metrics import Meter, exposed

    with closing(open_runtime()) as runtime:
        figures = Meter(runtime).read()
    if not as_json:
        say(exposed(figures).rstrip("\n"))
        return
    print_json(
        [
            {
                "name": family.name,
                "labels": dict(zip(family.labels, values, strict=True)),
                **(
                    {"value": numbers[0]}
                    if family.kind != "histogram"
                    else {"buckets": [*numbers[:-1]], "bounds": [*family.bounds], "sum": numbers[-1]}
                ),
            }
            for family, series in figures.items()
            for values, numbers in series
        ]
    )
