"""The model over HTTP: macule is a separate service, and this process loads no model."""

import requests
from django.conf import settings
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from spots.answers import Answer, Refused

CONNECT_S, READ_S, READY_S = 3, 30, 2
# A photo may be sent twice: predicting changes nothing.
RETRY = Retry(
    total=3,
    read=False,
    allowed_methods=None,
    status_forcelist=(429, 503),
    backoff_factor=0.5,
    retry_after_max=5,  # the visitor waits meanwhile
    raise_on_status=False,
)
macule = requests.Session()
macule.mount(settings.MACULE_URL, HTTPAdapter(max_retries=RETRY))
if settings.MACULE_KEY:
    macule.headers["X-API-Key"] = settings.MACULE_KEY


def classify(photo):
    """Classify an uploaded file.

    Raises: Refused.
    """
    try:
        response = macule.post(
            settings.MACULE_URL + "/predict/?explain=cam",
            data=photo.read(),
            headers={"Content-Type": "application/octet-stream"},
            timeout=(CONNECT_S, READ_S),
        )
        said = response.json()
    except requests.ReadTimeout as error:
        raise Refused(504, "The model service took too long. Try again later.") from error
    except requests.RequestException as error:  # no connection, or an answer that is not JSON
        raise Refused(502, "The model service cannot be reached. Try again later.") from error
    if response.status_code != 200:
        detail = said.get("detail", "The model service has failed. Try again later.")
        raise Refused(response.status_code, detail)
    overlay = said["explanation"]["overlay"] if said["explanation"] else ""
    predictions = [(row["name"], row["probability"]) for row in said["predictions"]]
    return Answer(said["decision"], predictions, overlay, said["disclaimer"])


def ready():
    """Return whether the service can answer photos now; its first call loads the model."""
    url = settings.MACULE_URL + "/v2/health/ready"
    try:
        return requests.get(url, headers=macule.headers, timeout=READY_S).ok
    except requests.RequestException:
        return False
