"""Messages to systemd."""

import logging

from gunicorn.systemd import sd_notify


def notify_ready() -> None:
    """Tell systemd that this process is ready (sd_notify(3), Type=notify). Does nothing without systemd."""
    sd_notify("READY=1", logging.getLogger("gunicorn.error"))
