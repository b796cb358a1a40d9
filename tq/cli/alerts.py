"""`tq alerts`: rules and a dashboard for Prometheus and Grafana, and a try of the webhook."""

import typer

from tq.cli.app import app
from tq.cli.output import AsJson, print_json, say
from tq.errors import InvalidSetting, TaskQueueError
from tq.settings import load_settings

alerts = typer.Typer(no_args_is_help=True, help="Who is told when something is not well.")
app.add_typer(alerts, name="alerts")


@alerts.command("rules")
def print_rules() -> None:
    """Print alerting rules for Prometheus."""
    from tq.alerts import rules

    typer.echo(rules(), nl=False)


@alerts.command("dashboard")
def print_dashboard() -> None:
    """Print a dashboard for Grafana."""
    from tq.alerts import dashboard

    typer.echo(dashboard(), nl=False)


@alerts.command("test")
def send_test_alert(as_json: AsJson = False) -> None:
    """Send a test alert to TQ_ALERT_WEBHOOK, and say what it answered.

    Ends with 1 if it did not take the alert.
    """
    from tq.alerts import send_test
    from tq.clock import SystemClock
    from tq.telemetry import configure_logs

    settings = load_settings()
    if settings.alert_webhook is None:
        raise InvalidSetting("TQ_ALERT_WEBHOOK is not set; set it to the address that is to get alerts")
    configure_logs(settings.model_copy(update={"log_level": "WARNING"}), component="tq")
    answer = send_test(
        settings.alert_webhook.get_secret_value(),
        namespace=settings.namespace,
        now=SystemClock().now(),
    )
    if as_json:
        print_json({"taken": answer.is_taken, "answer": answer.told})
        if not answer.is_taken:
            raise typer.Exit(1)
    elif answer.is_taken:
        say(f"sent: {answer.told}")
    else:
        raise TaskQueueError(f"the webhook did not take the alert: {answer.told}")
