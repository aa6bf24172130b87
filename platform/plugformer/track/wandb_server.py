"""Whether a W&B server can be had: found out in two seconds, where wandb itself would wait for a hundred."""

from __future__ import annotations

import base64
import json
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass
from threading import Thread
from urllib.parse import urlsplit

import wandb
from wandb.sdk.lib import wbauth

PATIENCE = 2.0  # seconds for an answer
_QUESTION = "query Viewer { viewer { id username entity } }"


@dataclass(frozen=True)
class Server:
    """
    Attributes:
        url: its address.
        key: to it; None where none is set, or where another way to log in is.
        logs_in: whether there is a key, or another way to log in.
        problem: what is wrong with the key, before anybody is asked.
    """

    url: str
    key: str | None
    logs_in: bool
    problem: str | None = None

    @classmethod
    def of(cls, settings: wandb.Settings) -> Server:
        """The one that wandb is set to, by the environment, its own files or .netrc."""
        url = settings.base_url
        try:
            auth = wbauth.authenticate_session(host=url, source="plugformer", prompt=False, update_session=False)
        except wandb.errors.AuthenticationError as error:
            return cls(url, None, False, str(error).rstrip("."))
        key = auth.api_key if isinstance(auth, wbauth.AuthApiKey) else None
        return cls(url, key, auth is not None)

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc

    def find_problem(self) -> str | None:
        """Why no run can be sent there now, in a few words; None if it can."""
        if self.problem is not None:
            return self.problem
        if not self.logs_in:
            return "no API key is set (`wandb login`, or WANDB_API_KEY)"
        return self.ask()

    def ask(self) -> str | None:
        """Why it can't be spoken to now; None if it can. Answers within `PATIENCE`, whatever the network does."""
        answers: list[str | None] = []
        thread = Thread(target=lambda: answers.append(self._ask()), daemon=True)  # looking up a name can't be cut short
        thread.start()
        thread.join(PATIENCE)
        return answers[0] if answers else f"{self.host} doesn't answer"

    def _ask(self) -> str | None:
        try:
            with urllib.request.urlopen(self._question(), timeout=PATIENCE) as response:
                viewer = (json.load(response).get("data") or {}).get("viewer")
        except urllib.error.HTTPError as error:
            return (
                f"{self.host} refuses the API key" if error.code in (401, 403) else f"{self.host} answers {error.code}"
            )
        except urllib.error.URLError as error:
            if isinstance(error.reason, ssl.SSLCertVerificationError):
                return None  # it answers; wandb has settings of its own for certificates
            return f"{self.host} can't be reached ({error.reason})"
        except TimeoutError:
            return f"{self.host} doesn't answer"
        except Exception as error:
            return f"{self.host} doesn't answer as W&B does ({type(error).__name__})"
        return f"{self.host} refuses the API key" if self.key is not None and viewer is None else None

    def _question(self) -> urllib.request.Request:
        headers = {"Content-Type": "application/json", "User-Agent": f"wandb/{wandb.__version__}"}
        if self.key is not None:
            headers["Authorization"] = "Basic " + base64.b64encode(f"api:{self.key}".encode()).decode()
        body = json.dumps({"query": _QUESTION, "operationName": "Viewer"}).encode()
        return urllib.request.Request(f"{self.url.rstrip('/')}/graphql", body, headers)
