"""A web application with an upload form that uses macule as its model service.

    pip install flask requests
    MACULE_URL=http://localhost:8080 flask --app examples/web_app/app.py run

MACULE_KEY is the application's own key, if macule requires one.

Nothing is stored here: the photo goes to macule unchanged, and the answer into the page.
"""

import os
import re
import secrets
from hashlib import sha256

import requests
from flask import Flask, abort, redirect, render_template, request, url_for
from requests.adapters import HTTPAdapter
from urllib3.util import Retry
from werkzeug.exceptions import HTTPException

MACULE_URL = os.environ.get("MACULE_URL", "http://localhost:8080").rstrip("/")
CONNECT_S, READ_S = 3, 30  # macule waits 10 s for a slot, 10 s for memory, then decodes
MOST_BYTES = 10 * 2**20  # macule's own MAX_IMAGE_BYTES
# A photo may be sent twice: predicting changes nothing, and a prediction has an Idempotency-Key.
RETRY = Retry(
    total=3,
    read=False,  # a request that took READ_S once is not repeated
    allowed_methods=None,
    status_forcelist=(429, 503),
    backoff_factor=0.5,
    retry_after_max=5,  # the visitor waits meanwhile
    raise_on_status=False,
)
SAY = {
    400: "Choose a photo first.",
    401: "The model service does not know this application. Its operator has to give it a key.",
    403: "The model service has revoked this application's key. Its operator has another.",
    404: "There is no such answer. Send the photo again.",
    408: "Sending the photo took too long. Try again over a faster connection.",
    410: "This answer is no longer kept. Send the photo again.",
    413: "This photo is too large. Send a smaller copy.",
    415: "This is not a photo that can be read here. Send a JPEG, PNG or WebP.",
    422: "This photo is damaged or unusual, and cannot be read. Try another copy of it.",
    429: "You have sent many photos. Wait a minute, then try again.",
    501: "The model service is not set up for this. Tell whoever runs it.",
    502: "The model service cannot be reached. Try again later.",
    503: "The model service is busy. Try again in a moment.",
    504: "The model service took too long. Try again later.",
    507: "This photo needs more memory than the service has. Send a smaller copy.",
}

app = Flask(__name__)
app.config["MAX_CONTENT_LENGTH"] = MOST_BYTES + 2**16  # the form around the photo
macule = requests.Session()
if "MACULE_KEY" in os.environ:
    macule.headers["X-API-Key"] = os.environ["MACULE_KEY"]
macule.mount(MACULE_URL, HTTPAdapter(max_retries=RETRY))


@app.get("/")
def form():
    return render_template("form.html", key=secrets.token_urlsafe(16))


@app.post("/")
def now():
    """Answer in the same request."""
    status, _, said = call("POST", "/predict/", photo())
    return answered(status, said)


@app.post("/later")
def later():
    """Put the photo into macule's queue; the page that is shown polls for the answer."""
    body = photo()
    # the same form sent twice is one prediction, with another photo it is another
    key = sha256(request.form.get("key", "").encode() + body).hexdigest()
    status, _, said = call(
        "POST", "/predictions", body, {"Prefer": "respond-async", "Idempotency-Key": key}
    )
    # key-in-use, if the first of the two has not ended, names its prediction
    job = said.get("prediction") if status == 409 else said.get("id")
    return redirect(url_for("wait", job=job), 303) if job else answered(status, said)


@app.get("/later/<job>")
def wait(job):
    """Poll for the answer; without one, the page reloads itself, without a script."""
    seen = request.args.get("seen", "")
    if not re.fullmatch("[A-Za-z0-9_-]{1,64}", job) or not re.fullmatch("[!-~]{0,80}", seen):
        abort(404)
    asked = {"If-None-Match": seen} if seen else {}
    status, headers, said = call("GET", f"/predictions/{job}", None, asked)
    if status != 304 and said.get("status") not in ("starting", "processing"):
        return answered(status, said)
    again_s = headers.get("Retry-After", "")
    return render_template(
        "wait.html",
        again=url_for("wait", job=job, seen=headers.get("ETag", seen)),
        again_s=min(max(int(again_s), 2), 30) if again_s.isdecimal() else 2,
    )


def photo():
    file = request.files.get("photo")
    body = file.read(MOST_BYTES + 1) if file else b""
    return body if 0 < len(body) <= MOST_BYTES else abort(413 if body else 400)


def call(method, path, body=None, headers=None):
    """Send a request to macule, in bounded time; 502 or 504 without an answer.

    Returns: status, headers, and the JSON; empty if there is none.
    """
    headers = {"Content-Type": "application/octet-stream", **(headers or {})}
    try:
        response = macule.request(
            method, MACULE_URL + path, data=body, headers=headers, timeout=(CONNECT_S, READ_S)
        )
        said = response.json() if "json" in response.headers.get("Content-Type", "") else {}
    except requests.ReadTimeout:
        abort(504)
    except requests.RequestException:
        abort(502)
    return response.status_code, response.headers, said


def answered(status, said):
    """Show an answer of macule, or its problem document in words for visitors."""
    if said.get("status") == "succeeded":
        return render_template("answer.html", answer=said)
    problem = said.get("error") or said  # a failed prediction has its problem inside
    status = problem.get("status", status)
    return explained(status if status in SAY else 502, problem.get("detail"))


def explained(status, detail=None):
    what = SAY.get(status, "This did not work. Try again later.")
    return render_template("problem.html", what=what, detail=detail), status


@app.errorhandler(HTTPException)
def failed(error):
    return explained(error.code)


@app.after_request
def private(response):
    response.headers["Cache-Control"] = "no-store"
    response.headers["Content-Security-Policy"] = (
        "default-src 'none'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    )
    response.headers["Referrer-Policy"] = "no-referrer"  # others may know its address
    return response
