"use strict";
// What is asked of the service: every failure comes back as an Error with a slug that has words.

const api = (() => {
  const STALL_MS = 30_000; // without a byte sent
  const ANSWER_MS = 120_000; // from the last byte to the answer; the slowest starts take a minute
  let key = "";

  function problem(slug, about = {}) {
    return Object.assign(new Error(slug), { slug, status: 0, afterS: 0, document: {} }, about);
  }

  /** Asks for JSON; null where there is none. */
  async function ask(path, signal) {
    const headers = key ? { Authorization: `Bearer ${key}` } : {};
    try {
      const answer = await fetch(path, { headers, signal, cache: "no-store" });
      return await answer.json();
    } catch {
      return null;
    }
  }

  /** Sends *blob*; `progress` is told per cent, and 100 once all is sent. */
  function predict(blob, progress, signal) {
    return new Promise((done, fail) => {
      const request = new XMLHttpRequest(); // fetch tells no progress of what it sends
      let clock = 0;
      const wait = (ms) => {
        clearTimeout(clock);
        clock = setTimeout(() => { fail(problem("timeout")); request.abort(); }, ms);
      };
      signal.addEventListener("abort", () => { fail(problem("canceled")); request.abort(); }, { once: true });
      request.upload.onprogress = (sent) => {
        wait(STALL_MS);
        progress(Math.floor((100 * sent.loaded) / sent.total));
      };
      request.upload.onload = () => { wait(ANSWER_MS); progress(100); };
      request.onloadend = () => {
        clearTimeout(clock);
        const answer = read(request);
        if (answer.slug) fail(answer);
        else done(answer);
      };
      request.open("POST", "predict/?explain=cam");
      request.setRequestHeader("Content-Type", blob.type || "application/octet-stream");
      if (key) request.setRequestHeader("Authorization", `Bearer ${key}`);
      wait(STALL_MS);
      request.send(blob);
    });
  }

  function read(request) {
    if (!request.status) return problem("network");
    let document = null;
    try { document = JSON.parse(request.responseText); } catch { /* a proxy's own page */ }
    if (request.status === 200 && document?.decision) return document;
    const afterS = Number.parseInt(request.getResponseHeader("Retry-After"), 10) || 0;
    const refused = request.status === 401 && key; // one that was sent and is not known
    const slug = refused ? "key-revoked" : String(document?.type ?? "").split(":").pop() || "unknown";
    return problem(slug, { status: request.status, afterS, document: document ?? {} });
  }

  return { ask, predict, problem, useKey: (text) => { key = text; } };
})();
