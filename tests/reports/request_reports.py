"""Public reports of uploads that failed elsewhere: the request, and the correct answer.

Each names its thread on GitHub: owner/repository#number.
"""

from __future__ import annotations

import gzip
import json
import zlib
from base64 import b64encode, encodebytes, urlsafe_b64encode
from typing import NamedTuple
from urllib.parse import quote

from support.images import photo

PHOTO = photo(96, 72)
TEXT = b64encode(PHOTO).decode()
WEB_SAFE = urlsafe_b64encode(PHOTO).decode().rstrip("=")
WRAPPED = encodebytes(PHOTO).decode()
JSON = {"Content-Type": "application/json"}
FORM = {"Content-Type": "multipart/form-data; boundary=b"}
URLENCODED = {"Content-Type": "application/x-www-form-urlencoded"}
ORIGIN = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}


class Report(NamedTuple):
    """One thread, and its request.

    `status` and `expected`, a part of the answer, are correct. `sent` is how the body is sent: with
    its length, in chunks, by HTTP/1.0, by HTTP/1.0 without a length, or as an API Gateway without
    binary media types passes it to Lambda.
    """

    source: str
    happened: str
    body: bytes
    headers: dict[str, str]
    status: int = 200
    expected: str = '"decision"'
    sent: str = "length"
    method: str = "POST"


def as_json(document: object) -> bytes:
    return json.dumps(document).encode()


def part(content: bytes, disposition: str) -> bytes:
    head = f"--b\r\nContent-Disposition: form-data; {disposition}\r\n\r\n"
    return head.encode() + content + b"\r\n"


def multipart(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--b--\r\n"


FILE = part(PHOTO, 'name="image"; filename="a.jpg"')
MANGLED = PHOTO.decode("utf-8", "replace").encode()
STRIPPED = PHOTO.translate(None, b"\0\r\n")
RAW_DEFLATE = zlib.compressobj(wbits=-15)

BASE64 = (
    Report(
        "matatonic/openedai-vision#4",
        "a data: URI without padding was a 500",
        as_json({"image": f"data:image/jpeg;base64,{TEXT.rstrip('=')}"}),
        JSON,
    ),
    Report(
        "cds-snc/notification-api#1267",
        "base64 that is incorrectly padded was a 500",
        as_json({"image": TEXT[: 4 * 99 + 1]}),
        JSON,
        400,
        "is not base64",
    ),
    Report(
        "itpp-labs/misc-addons#680",
        "the field held an address instead of base64: Incorrect padding",
        as_json({"image": "https://example.com/web/image/1.jpg"}),
        JSON,
        400,
        "nothing is fetched",
    ),
    Report(
        "ohmage/server#280",
        "nobody knew whether base64 goes with its data: prefix or without",
        as_json({"image": f"data:image/png;base64,{TEXT}"}),
        JSON,
    ),
    Report(
        "gradio-app/gradio#6038",
        "bare base64 was taken as a path: FileNotFoundError",
        as_json({"image": TEXT}),
        JSON,
    ),
    Report(
        "runpod-workers/worker-comfyui#126",
        "base64 was sent as a JSON text with its quotes: Incorrect padding",
        as_json(TEXT),
        JSON,
    ),
    Report(
        "validatorjs/validator.js#1424",
        "base64 in lines of 64 characters was no base64",
        as_json({"image": "\r\n".join(TEXT[at : at + 64] for at in range(0, len(TEXT), 64))}),
        JSON,
    ),
    Report(
        "grnet/snf-image#51",
        "the lines of base64's output stood in JSON as they were: not JSON",
        f'{{"image": "{WRAPPED}"}}'.encode(),
        JSON,
    ),
    Report(
        "GSI/jekyll_image_encode#7",
        "line ends in the base64 of a data: URI made it invalid",
        as_json({"image": f"data:image/jpeg;base64,{WRAPPED}"}),
        JSON,
    ),
    Report(
        "linkesch/medium-editor-insert-plugin#501",
        "every + of base64 in a urlencoded form became a space",
        f"image={TEXT}".encode(),
        URLENCODED,
    ),
    Report(
        "thoughtbot/paperclip#1884",
        "a data: URI that is not base64 was not recognized",
        as_json({"image": f"data:image/jpeg,{quote(PHOTO)}"}),
        JSON,
    ),
    Report(
        "vllm-project/vllm#48973",
        "parameters between the type and ;base64 were a 501",
        as_json({"image": f"data:image/jpeg;charset=utf-8;base64,{TEXT}"}),
        JSON,
    ),
    Report(
        "ManabiIO/manabitan#98",
        "a data: URI without a type was read as plain text",
        as_json({"image": f"data:;charset=utf-8;base64,{quote(TEXT, safe='')}"}),
        JSON,
    ),
    Report(
        "valor-software/ng2-file-upload#1080",
        "base64 was put into a form's field, as binary fields came out corrupted",
        multipart(part(TEXT.encode(), 'name="image"')),
        FORM,
    ),
)

SERVING = (
    Report(
        "tensorflow/serving#1141",
        "URL-safe base64 in `instances`: Unable to base64 decode",
        as_json({"instances": [{"b64": WEB_SAFE}]}),
        JSON,
        expected='{"predictions":[{"id"',
    ),
    Report(
        "tensorflow/serving#1169",
        "the client of TF Serving's own guide: Unable to base64 decode",
        as_json({"instances": [{"b64": TEXT}]}),
        JSON,
        expected='{"predictions":[{"id"',
    ),
    Report(
        "ageron/handson-ml2#105",
        "how to send base64 in place of numbers: texts as instances",
        as_json({"signature_name": "serving_default", "instances": [WEB_SAFE]}),
        JSON,
        expected='{"predictions":[{"id"',
    ),
    Report(
        "googleapis/python-aiplatform#1526",
        "Vertex AI: the response field predictions is missing",
        as_json({"instances": [{"image_bytes": {"b64": TEXT}}], "parameters": {}}),
        JSON,
        expected='{"predictions":[{"id"',
    ),
    Report(
        "GoogleCloudPlatform/practical-ml-vision-book#8",
        "two photos as named bytes failed without a reason",
        as_json({"instances": [{"img_bytes": {"b64": TEXT}}, {"img_bytes": {"b64": TEXT}}]}),
        JSON,
        400,
        "one photo",
    ),
    Report(
        "tensorflow/serving#2104",
        "columns instead of rows: which form an image takes was not said",
        as_json({"signature_name": "predict_images", "inputs": {"images": {"b64": TEXT}}}),
        JSON,
        400,
        "as JSON",
    ),
)

FORMS = (
    Report(
        "axios/axios#4630",
        "a Content-Type set by hand has no boundary",
        multipart(FILE),
        {"Content-Type": "multipart/form-data"},
        400,
        "has no boundary",
    ),
    Report(
        "axios/axios#381",
        "a form went out as application/x-www-form-urlencoded",
        multipart(FILE),
        URLENCODED,
        400,
        "has no boundary",
    ),
    Report(
        "Azure/azure-functions-python-worker#895",
        "curl -F with Content-Type: application/json: no files came",
        multipart(FILE),
        JSON,
        400,
        "has no boundary",
    ),
    Report(
        "civetweb/civetweb#433",
        "a quoted boundary and names without quotes were malformed",
        multipart(part(PHOTO, "name=image; filename=a.jpg")),
        {"Content-Type": 'multipart/form-data; boundary="b"'},
    ),
    Report(
        "rexyai/RestRserve#160",
        ".NET's filename* beside filename, and no type of its own: not found",
        multipart(part(PHOTO, "name=file; filename=a.jpg; filename*=utf-8''a.jpg")),
        FORM,
    ),
    Report(
        "pallets/werkzeug#932",
        "a file with filename* alone was not among the files",
        multipart(part(PHOTO, "name=\"image\"; filename*=UTF-8''%c2%a3%20and%20%e2%82%ac.jpg")),
        FORM,
    ),
    Report(
        "cherrypy/cherrypy#1694",
        "with filename* the content came in place of the name",
        multipart(part(PHOTO, "name=\"file\"; filename*=utf-8''%C5%82%C3%B3.jpg")),
        FORM,
    ),
    Report(
        "talebook/talebook#710",
        "a file name in bare UTF-8 was a 400",
        multipart(part(PHOTO, 'name="image"; filename="皮肤.jpg"')),
        FORM,
    ),
    Report(
        "spring-projects/spring-boot#27579",
        "a part without a file name was no file",
        multipart(part(PHOTO, 'name="file"')),
        FORM,
    ),
    Report(
        "playframework/playframework#6203",
        "a form without a chosen file became an empty file",
        multipart(part(b"", 'name="image"; filename=""')),
        FORM,
        400,
        "no file was chosen",
    ),
    Report(
        "pillarjs/multiparty#40",
        "the empty one of two file fields was taken as a file",
        multipart(part(b"", 'name="image"; filename=""'), FILE),
        FORM,
    ),
    Report(
        "MicrosoftDocs/azure-docs#47850",
        "of two files one was read, and nobody was told",
        multipart(FILE, FILE),
        FORM,
        400,
        "one photo",
    ),
)

BODIES = (
    Report(
        "pallets/werkzeug#2550",
        "curl -d with JSON: its Content-Type is not application/json",
        as_json({"image": TEXT}),
        URLENCODED,
    ),
    Report(
        "rucio/rucio#4314",
        "JSON without its Content-Type was a ValueError",
        as_json({"image": TEXT}),
        {},
    ),
    Report(
        "lucko/bytebin#26",
        "curl -d @photo changed the photo: line ends were missing",
        STRIPPED,
        {"Content-Type": "image/png"},
        400,
        "--data-binary",
    ),
    Report(
        "curl/curl#15311",
        "curl --data @file truncated binary files",
        STRIPPED,
        {"Content-Type": "application/octet-stream"},
        400,
        "--data-binary",
    ),
    Report(
        "lovell/sharp#889",
        "API Gateway without binary support: unsupported image format",
        MANGLED,
        {"Content-Type": "image/jpeg"},
        400,
        "binaryMediaTypes",
        "gateway",
    ),
    Report(
        "brefphp/bref#271",
        "a form's photo behind API Gateway came out corrupted",
        MANGLED.join(multipart(FILE).split(PHOTO)),
        FORM,
        400,
        "binaryMediaTypes",
        "gateway",
    ),
    Report(
        "postmanlabs/httpbin#577",
        "the Content-Encoding of a request was ignored",
        gzip.compress(as_json({"image": TEXT})),
        {**JSON, "Content-Encoding": "gzip"},
    ),
    Report(
        "expressjs/compression#179",
        "deflate without its header, to save bytes, failed",
        RAW_DEFLATE.compress(as_json({"image": TEXT})) + RAW_DEFLATE.flush(),
        {**JSON, "Content-Encoding": "deflate"},
    ),
    Report(
        "httptoolkit/httptoolkit-ui#57",
        "Content-Encoding: br could not be decoded",
        PHOTO,
        {"Content-Encoding": "br"},
        415,
        "gzip and deflate",
    ),
    Report(
        "mendhak/docker-http-https-echo#31",
        "a Content-Encoding without compression: Unexpected token",
        as_json({"image": TEXT}),
        {**JSON, "Content-Encoding": "gzip"},
        400,
        "not gzip",
    ),
    Report(
        "headroomlabs-ai/headroom#3284",
        "a small compressed body inflated to gigabytes",
        gzip.compress(bytes(64 * 2**20)),
        {"Content-Encoding": "gzip"},
        413,
        "decompressed",
    ),
    Report(
        "jelmer/dulwich#2250",
        "a bomb in chunks, without a length, was read into memory",
        gzip.compress(bytes(64 * 2**20)),
        {"Content-Encoding": "gzip"},
        413,
        "decompressed",
        "chunks",
    ),
    Report(
        "benoitc/gunicorn#1803",
        "a form in chunks was empty",
        multipart(FILE),
        FORM,
        sent="chunks",
    ),
    Report(
        "benoitc/gunicorn#2031",
        "JSON in chunks was a 400",
        as_json({"image": TEXT}),
        JSON,
        sent="chunks",
    ),
    Report(
        "bvanderveen/httpmachine#7",
        "HTTP/1.0 with a body failed, as nginx sends it to what is behind it",
        PHOTO,
        {"Content-Type": "image/jpeg"},
        sent="1.0",
    ),
    Report(
        "ddclient/ddclient#332",
        "HTTP/1.0 without a Content-Length was a 400 that said nothing",
        PHOTO,
        {"Content-Type": "image/jpeg"},
        400,
        "without a Content-Length",
        "1.0 without a length",
    ),
    Report(
        "GoogleCloudPlatform/functions-framework-python#66",
        "an answer before the body was read broke the connection",
        bytes(12 * 2**20),
        {"Content-Type": "image/jpeg"},
        413,
        "limit_bytes",
    ),
    Report(
        "diced/zipline#233",
        "the preflight of an upload was a 405",
        b"",
        {**ORIGIN, "Access-Control-Request-Headers": "content-type"},
        204,
        "",
        method="OPTIONS",
    ),
    Report(
        "tinode/chat#840",
        "the preflight was asked for a key, which no browser sends with it",
        b"",
        {**ORIGIN, "Access-Control-Request-Headers": "x-api-key"},
        204,
        "",
        method="OPTIONS",
    ),
)

REPORTS = (*BASE64, *SERVING, *FORMS, *BODIES)
