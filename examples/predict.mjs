#!/usr/bin/env node
// Send a photo to macule. In a page: `import { predict } from "./predict.mjs"` (predict.html does).
// In Node 18 or later: the same, or on the command line
//
//     examples/predict.mjs [--later] PHOTO [URL]
//
// which prints the answer's JSON and exits with 0 for an answer, 1 for a problem, 2 for wrong usage.
// MACULE_API_KEY, if the service needs one, and MACULE_TIMEOUT_S (60) come from the environment.
// Every visitor can read a key in a page: let your own server add it there.

const TRIES = 5;
const AGAIN = [429, 503]; // temporary errors; predicting changes nothing, so a photo may be sent twice
const DEFAULT_URL = "http://localhost:8080";
const webcrypto = globalThis.crypto ?? (await import("node:crypto")).webcrypto; // Node 18

// An error: `document` is RFC 9457's; `status` is 0 without an answer.
export class Problem extends Error {
  constructor(document) {
    const { status = 0, title = "Error", detail = "", request_id: id = "" } = document;
    super(`${status} ${title}: ${detail} (request ${id})`);
    Object.assign(this, { name: "Problem", document, status, requestId: id });
  }
}

// Classify a photo: a File, Blob or Uint8Array. Throws a Problem.
export async function predict(photo, options) {
  const { answer } = await session(options).ask("POST", "/predict/", photo);
  return answer;
}

// Put a photo into macule's queue and poll until it has an answer. Throws a Problem.
// The same idempotencyKey with the same photo makes one prediction.
export async function predictLater(photo, { idempotencyKey = randomId(), ...options } = {}) {
  const { id, ask, wait } = session(options);
  const order = { Prefer: "respond-async", "Idempotency-Key": idempotencyKey };
  let { headers, answer: job } = await ask("POST", "/predictions", photo, order).catch((problem) => {
    const made = problem.document?.prediction; // key-in-use names the earlier prediction
    if (!made) throw problem;
    return { headers: new Headers(), answer: { id: made, status: "starting" } };
  });
  const path = `/predictions/${job.id}`; // as in Location, without a prefix of the URL
  let known = {};
  while (["starting", "processing"].includes(job.status)) {
    await wait(headers);
    const reply = await ask("GET", path, undefined, known);
    headers = reply.headers;
    if (reply.status !== 304) {
      job = reply.answer;
      known = { "If-None-Match": headers.get("ETag") ?? "" };
    }
  }
  if (job.status === "succeeded") return job;
  const detail = `The prediction was ${job.status}.`;
  throw new Problem({ request_id: id, ...(job.error ?? { title: "No answer", detail }) });
}

// Requests to one service, all within timeoutMs. fetch has no separate time limit for connecting.
function session({ url = DEFAULT_URL, key = "", timeoutMs = 60_000 } = {}) {
  const end = Date.now() + timeoutMs;
  const signal = AbortSignal.timeout(timeoutMs);
  const id = randomId(); // the id of the request in the service's log
  const noAnswer = (detail) => new Problem({ title: "No answer", detail, request_id: id });
  const late = () => noAnswer(`None came within ${timeoutMs / 1000} s.`);

  // Wait for Retry-After; throw at once if that is too long.
  async function wait(headers, instead) {
    const text = headers.get("Retry-After") ?? "";
    const ms = /^\d+$/.test(text) ? Number(text) * 1000 : 1000;
    if (Date.now() + ms >= end) throw instead ?? late();
    await new Promise((resolve) => setTimeout(resolve, ms));
  }

  async function send(method, path, body, headers) {
    const always = { "X-Request-Id": id, ...(key && { Authorization: `Bearer ${key}` }) };
    if (body) always["Content-Type"] = "application/octet-stream";
    try {
      const response = await fetch(url.replace(/\/+$/, "") + path, {
        method,
        body,
        headers: { ...always, ...headers },
        cache: "no-store",
        signal,
      });
      return { status: response.status, headers: response.headers, text: await response.text() };
    } catch (error) {
      if (signal.aborted) throw late();
      throw noAnswer(`${url} cannot be reached: ${error.cause?.code ?? error.message}.`);
    }
  }

  // Send one request, and retry if told so.
  async function ask(method, path, body, given) {
    for (let left = TRIES - 1; ; left -= 1) {
      const { status, headers, text } = await send(method, path, body, given);
      const answer = read(text);
      if (status === 304 || (status < 300 && answer)) return { status, headers, answer };
      const theirs = { title: "No answer", status, detail: "What came is no answer of macule." };
      const document = answer && "status" in answer ? answer : theirs; // a proxy's, or an incomplete one
      const problem = new Problem({ request_id: headers.get("X-Request-Id") ?? id, ...document });
      if (!AGAIN.includes(status) || left === 0) throw problem;
      await wait(headers, problem);
    }
  }

  return { id, ask, wait };
}

// Read a JSON object; return undefined for anything else.
function read(text) {
  try {
    const document = JSON.parse(text);
    const object = document && typeof document === "object" && !Array.isArray(document);
    return object ? document : undefined;
  } catch {
    return undefined;
  }
}

// crypto.randomUUID would need https.
function randomId() {
  const bytes = webcrypto.getRandomValues(new Uint8Array(12));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

async function main(process) {
  const { readFile } = await import("node:fs/promises");
  const rest = process.argv.slice(2).filter((word) => word !== "--later");
  const later = rest.length < process.argv.length - 2;
  const [file, url] = rest;
  const { MACULE_API_KEY: key, MACULE_TIMEOUT_S: seconds = "60" } = process.env;
  let photo;
  try {
    const wrong = !file || rest.length > 2 || rest.some((word) => word.startsWith("-"));
    if (wrong || !/^\d+$/.test(seconds)) {
      throw new Error("usage: predict.mjs [--later] PHOTO [URL]");
    }
    photo = await readFile(file);
  } catch (error) {
    console.error(error.message);
    process.exitCode = 2;
    return;
  }
  try {
    const timeoutMs = Number(seconds) * 1000;
    const answer = await (later ? predictLater : predict)(photo, { url, key, timeoutMs });
    console.log(JSON.stringify(answer));
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    console.error(error.message);
    process.exitCode = 1;
  }
}

// Run only as a command, not in a page or when imported.
if (/[\\/]predict\.mjs$/.test(globalThis.process?.argv?.[1])) await main(globalThis.process);
