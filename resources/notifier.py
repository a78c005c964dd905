"""Telling people: the log always, a webhook and e-mail when they are set."""

from __future__ import annotations

import json
import smtplib
import time
from collections.abc import Callable
from email.message import EmailMessage

import dagster as dg
from pydantic import Field

PAUSE_SECONDS = 0.5


class Notifier(dg.ConfigurableResource):
    """Sends short plain-text messages.

    A channel that fails is logged and never raised: telling of trouble makes none.

    `webhook` gets a POST of `{"title", "text"}` (Slack and Teams read `text`). `smtp` is
    `host:port` of a mail server that takes mail from this machine; with `smtp_user` the connection
    is encrypted (STARTTLS) and logged in. Each channel is tried `attempts` times with a growing
    pause.
    """

    webhook: str | None = None
    smtp: str | None = None
    smtp_user: str | None = None
    smtp_password: str | None = None
    sender: str = "evergreen@localhost"
    recipients: list[str] = Field(default_factory=list)
    timeout_seconds: float = 5.0
    attempts: int = 3

    def notify(self, title: str, text: str) -> dict[str, str]:
        """Send a message to all channels and return what became of it: channel to "sent" or the
        error in words.
        """
        log = dg.get_dagster_logger("notifier")
        log.warning(f"{title}\n{text}")
        outcomes = {"log": "sent"}
        if self.webhook:
            outcomes["webhook"] = self._tried(lambda: self._post(title, text))
        if self.smtp and self.recipients:
            outcomes["e-mail"] = self._tried(lambda: self._mail(title, text))
        for channel, outcome in outcomes.items():
            if outcome != "sent":
                log.error(f"The notification {title!r} did not go out by {channel}: {outcome}")
        return outcomes

    def _tried(self, send: Callable[[], None]) -> str:
        import httpx

        error = ""
        for attempt in range(max(self.attempts, 1)):
            if attempt:
                time.sleep(PAUSE_SECONDS * 2 ** (attempt - 1))
            try:
                send()
            except (
                httpx.HTTPError,
                httpx.InvalidURL,
                OSError,
                smtplib.SMTPException,
                ValueError,
            ) as caught:
                # The address of a webhook is a secret, and errors quote it.
                error = f"{type(caught).__name__}: {caught}".replace(
                    self.webhook or "\0", "<webhook>"
                )
            else:
                return "sent"
        return f"{error} ({self.attempts} tries)"

    def _post(self, title: str, text: str) -> None:
        import httpx

        body = json.dumps({"title": title, "text": f"{title}\n{text}"})
        headers = {"content-type": "application/json"}
        response = httpx.post(
            str(self.webhook), content=body, headers=headers, timeout=self.timeout_seconds
        )
        response.raise_for_status()

    def _mail(self, title: str, text: str) -> None:
        message = EmailMessage()
        message["Subject"] = " ".join(title.split())
        message["From"] = self.sender
        message["To"] = ", ".join(self.recipients)
        message.set_content(text)
        host, _, port = str(self.smtp).partition(":")
        with smtplib.SMTP(host, int(port or 25), timeout=self.timeout_seconds) as server:
            if self.smtp_user:
                server.starttls()
                server.login(self.smtp_user, self.smtp_password or "")
            server.send_message(message)
