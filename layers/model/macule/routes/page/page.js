"use strict";
// The page: one view at a time, drawn again in the other language when that is chosen.

(() => {
  if (document.body.dataset.view !== "choose") return; // an answer to the plain form: its links do
  const TRIES = 5;
  const MOST_WAIT_S = 60; // for a next try of itself; beyond that it is the visitor's to choose
  const SLOW_MS = 700; // a warm service has answered by then
  const SILENT_MS = 1500; // one that runs says so by then, model or not
  const LOADING_S = 5; // a model, on the smallest instances
  const STARTING_S = 30; // an instance from nothing; the slowest platforms take a minute
  const POLL_MS = 5000;
  const MOST_KEPT = 20; // answers of this visit
  const AGAIN = new Set([502, 503, 504]); // statuses that waiting mends
  const FINAL = new Set([400, 413, 415, 422, 507]); // and that sending the same again does not
  const LIGHTER = new Set(["slow-body", "body-too-large", "image-too-large", "slow-image", "cannot-fit"]);

  const root = document.documentElement;
  const table = JSON.parse(document.getElementById("words").textContent);
  const make = (kind) => document.createElement(kind);
  const at = (id) => document.getElementById(id);
  let words = table[root.lang];
  let draw = () => {}; // the texts of the view, in `words`
  let chosen = null; // what photo.prepare made
  let stop = null; // AbortController of what is under way
  let card = null; // the model's
  let turn = 0; // of the photos that are being prepared, the newest
  let past = []; // answers of this visit, the newest first
  let compared = false; // the heat map is off while a button is held

  const fill = (text, about) => text.replace(/\{(\w+)\}/g, (_, name) => about[name]);
  const pause = (ms) => new Promise((done) => { setTimeout(done, ms); });
  const size = (bytes) => {
    const [unit, by, digits] = bytes < 1_000_000 ? ["kB", 1000, 0] : ["MB", 1_000_000, 1];
    return `${Math.max(bytes / by, 0.1 ** digits).toLocaleString(root.lang, { maximumFractionDigits: digits })} ${unit}`;
  };

  function show(view, drawn, focused) {
    draw = drawn;
    document.body.dataset.view = view;
    draw();
    focused?.focus();
  }

  /** Tells a screen reader what is not focused. */
  function say(text) {
    if (at("said").textContent !== text) at("said").textContent = text;
  }

  // A photo is chosen ---------------------------------------------------------------------------

  async function take(files, example = false) {
    const file = files[0];
    if (!file || document.body.dataset.view === "sending") return;
    if (!file.size) { refuse("empty"); return; }
    if (!photo.plausible(file)) { refuse("unsupported-image"); return; }
    say(words.preparing);
    const mine = turn += 1;
    const prepared = await photo.prepare(file);
    if (mine !== turn) return;
    chosen = { ...prepared, example };
    at("original").checked = !chosen.small;
    present(files.length > 1);
  }

  function present(several = false) {
    picture(chosen.url);
    at("original-row").hidden = !chosen.small;
    show("chosen", () => {
      at("notice").textContent = several ? words.several : "";
      at("original-label").textContent = fill(words.original, { size: size(chosen.file.size) });
      at("facts").textContent = facts();
      at("flaws").hidden = !chosen.flaws.length;
      at("flaw-list").replaceChildren(...flaws().map((flaw) => Object.assign(make("li"), { textContent: flaw })));
    }, at("analyse"));
    say([several ? words.several : "", words.chosen, facts(), ...flaws()].join(" "));
  }

  function facts() {
    if (!chosen.small) return fill(words.facts_unseen, { size: size(chosen.file.size) });
    if (at("original").checked) return fill(words.facts_original, { size: size(chosen.file.size) });
    return fill(words.facts, { ...chosen, size: size(chosen.small.size) });
  }

  function flaws() {
    return chosen.flaws.map((flaw) => fill(words[`flaw_${flaw}`], chosen));
  }

  /** Turns away what need not be sent to know that it is no photo. */
  function refuse(slug) {
    turn += 1;
    chosen = null;
    picture("");
    at("unseen").textContent = "";
    complain(api.problem(slug));
  }

  function picture(url, cam = null, alt = "") {
    for (const [image, source] of [[at("photo"), url], [at("overlay"), cam]]) {
      if (source) image.src = source;
      else image.removeAttribute("src");
    }
    at("photo").alt = words.alt;
    at("overlay").alt = alt;
    at("unseen").textContent = url || cam ? "" : words.unseen;
  }

  function restart() {
    stop?.abort();
    turn += 1;
    chosen = null;
    at("file").value = at("shot").value = "";
    show("choose", () => {}, at("file"));
  }

  // It is sent ----------------------------------------------------------------------------------

  async function send() {
    const body = at("original").checked ? chosen.file : chosen.small;
    stop = new AbortController();
    const { signal } = stop;
    try {
      const answer = await persist(body, signal);
      if (card?.sha256 !== answer.model.sha256) {
        card = await Promise.race([api.ask("model/", signal), pause(SILENT_MS)]) ?? null;
      }
      if (signal.aborted) return;
      past = [{ answer, card, url: chosen.url, example: chosen.example, at: new Date() }, ...past].slice(0, MOST_KEPT);
      reveal(past[0]);
    } catch (problem) {
      if (!problem.slug) throw problem;
      if (problem.slug !== "canceled") complain(problem);
    }
  }

  /** Sends until there is an answer, or a failure that waiting does not mend. */
  async function persist(body, signal) {
    for (let attempt = 1; ; attempt += 1) {
      try {
        return await attend(body, signal);
      } catch (problem) {
        const passes = AGAIN.has(problem.status) || problem.slug === "network";
        if (!passes || attempt === TRIES || problem.afterS > MOST_WAIT_S) throw problem;
        await count(problem, Math.max(problem.afterS, 2 ** (attempt - 1)), signal);
      }
    }
  }

  /** Sends once, and says what takes its time. */
  async function attend(body, signal) {
    let percent = 0;
    let wakingS = 0;
    const phase = () => {
      const text = wakingS ? words.waking
        : percent < 100 ? fill(words.sending, { percent }) : words.analysing;
      at("phase").textContent = text;
      at("phase-note").textContent = wakingS ? fill(words.waking_note, { seconds: wakingS }) : "";
      if (percent < 100 && !wakingS) at("progress").value = percent;
      else at("progress").removeAttribute("value");
    };
    const looks = new AbortController();
    signal.addEventListener("abort", () => looks.abort(), { once: true });
    const wakes = (seconds) => {
      if (looks.signal.aborted) return;
      wakingS = seconds;
      phase();
      if (seconds) say(`${words.waking} ${at("phase-note").textContent}`);
    };
    show("sending", phase, at("cancel"));
    say(words.analysing);
    const asleep = setTimeout(async () => {
      const silent = setTimeout(wakes, SILENT_MS, STARTING_S);
      const memory = await api.ask("memory/", looks.signal);
      clearTimeout(silent);
      wakes(memory?.model_loaded === false ? LOADING_S : 0);
    }, SLOW_MS);
    try {
      return await api.predict(body, (done) => { percent = done; phase(); }, signal);
    } finally {
      clearTimeout(asleep);
      looks.abort();
    }
  }

  /** Counts down to the next try. */
  async function count(problem, seconds, signal) {
    let left = seconds;
    const drawn = () => {
      at("phase").textContent = told(problem)[0];
      at("phase-note").textContent = fill(words.waiting, { seconds: left });
      at("progress").value = (100 * (seconds - left)) / seconds;
    };
    show("sending", drawn, at("cancel"));
    say(`${told(problem)[0]}. ${fill(words.waiting, { seconds })}`);
    for (; left > 0; left -= 1) {
      draw();
      await Promise.race([pause(1000), new Promise((done) => { signal.addEventListener("abort", done, { once: true }); })]);
      if (signal.aborted) throw api.problem("canceled");
    }
  }

  // It fails ------------------------------------------------------------------------------------

  /** Names a failure as `words` does; one it does not know, by its status. */
  function known(problem) {
    return problem.slug in words.problems ? problem.slug : table.statuses[problem.status] ?? "internal";
  }

  /** Says a failure in words: what happened, what to do. */
  function told(problem) {
    const [head, advice] = words.problems[known(problem)];
    const limit = problem.document.limit_bytes;
    const most = limit ? fill(words.most, { limit: `${+(limit / 2 ** 20).toPrecision(3)} MB` }) : "";
    const after = problem.afterS ? fill(words.retry_in, { seconds: problem.afterS }) : "";
    return [head, [most, advice, after].filter(Boolean).join(" ")];
  }

  function complain(problem) {
    const locked = problem.status === 401 || problem.status === 403;
    const lighter = Boolean(chosen?.small) && at("original").checked && LIGHTER.has(known(problem));
    at("key-form").hidden = !locked;
    at("smaller").hidden = !lighter;
    at("retry").hidden = !chosen || locked || lighter || FINAL.has(problem.status);
    show("problem", () => {
      [at("problem-head").textContent, at("problem-advice").textContent] = told(problem);
      const id = problem.document.request_id;
      at("problem-id").textContent = id ? fill(words.request, { id }) : "";
    }, locked ? at("key") : at("problem-head"));
    say(told(problem).join(". "));
  }

  // It is answered ------------------------------------------------------------------------------

  /** Says of a row of the answer what the card does: its `names` or `descriptions`. */
  function text(entry, key, row, otherwise) {
    const place = entry.card?.labels?.indexOf(row.label) ?? -1;
    const known = entry.card?.[key];
    return (known?.[root.lang] ?? known?.en)?.[place] ?? otherwise;
  }

  /** To what per cent figures are rounded: no finer than the model's calibration error. */
  function step(entry) {
    return entry.card?.metrics?.ece_after <= 0.05 ? 5 : 10;
  }

  /** A probability in per cent, never as the certainty that it is not. */
  function share(probability, by) {
    const rounded = by * Math.floor((100 * probability) / by + 0.5);
    const edge = Math.ceil(by / 2);
    return rounded === 0 ? `<${edge}%` : rounded === 100 ? `>${100 - edge}%` : `${rounded}%`;
  }

  /** Names the texts about an answer: by its decision, or by a reason that has its own texts. */
  function topic(answer) {
    return answer.reason === "not_dermoscopic" ? answer.reason : answer.decision;
  }

  /** Says how soon a doctor should see it. */
  function soon({ answer, card: known }) {
    const urgent = answer.decision !== "not_skin" && known?.urgent?.includes(answer.predictions[0].label);
    return urgent ? words.soon_urgent : words[`soon_${answer.decision}`] ?? "";
  }

  function reveal(entry) {
    const { answer } = entry;
    const judged = answer.decision !== "not_skin";
    const cam = judged ? answer.explanation : null;
    document.body.dataset.decision = answer.decision;
    document.querySelector(".stage").dataset.fit = entry.card?.resize ?? "squash";
    const drawn = () => {
      const names = answer.predictions.map((row) => text(entry, "names", row, row.name));
      const about = { name: names[0], count: names.length, names: names.join(", "), step: step(entry) };
      picture(entry.url, cam?.overlay, cam ? fill(words.alt_heat, about) : "");
      at("verdict-lead").textContent = words[topic(answer)];
      at("verdict-name").textContent = answer.decision === "classified" ? about.name : "";
      at("soon").textContent = soon(entry);
      at("meaning").textContent = fill(words[`${topic(answer)}_meaning`], about);
      at("cut-off").textContent = answer.warnings ? words.cut_off : "";
      at("kinds").textContent = fill(words.kinds, about);
      at("bars").replaceChildren(...(judged ? answer.predictions.map((row) => bar(entry, row)) : []));
      at("rounded").textContent = judged ? fill(words.rounded, about) : "";
      at("heat-label").textContent = fill(words.heat, about);
      at("rough").textContent = cam && !cam.faithful ? words.rough : "";
      at("no-map").textContent = judged && !cam ? words.no_map : "";
      const date = entry.at.toLocaleString(root.lang, { dateStyle: "long", timeStyle: "short" });
      at("summary").textContent = fill(words.summary, { date });
      at("made-by").textContent = fill(words.made_by, {
        model: answer.model.name, version: answer.model.version, ms: Math.round(answer.metrics.total_ms),
      });
      recall();
    };
    at("heat").hidden = !cam;
    at("example-note").hidden = !entry.example;
    show("result", drawn, at("verdict"));
    scrollTo(0, 0);
    say("");
    fade();
  }

  function bar(entry, kind) {
    const [row, label, figure, sentence] = ["li", "span", "span", "span"].map(make);
    [label.className, figure.className, sentence.className] = ["name", "share", "hint"];
    label.textContent = text(entry, "names", kind, kind.name);
    figure.textContent = share(kind.probability, step(entry));
    sentence.textContent = text(entry, "descriptions", kind, "");
    const drawing = at("gauge-bar").cloneNode(true);
    drawing.removeAttribute("id");
    drawing.firstElementChild.setAttribute("width", `${(100 * kind.probability).toFixed(1)}%`);
    row.append(label, " ", figure, drawing, sentence);
    return row;
  }

  function fade() {
    const on = at("heat-on").checked;
    at("strength").disabled = at("compare").disabled = !on;
    at("overlay").style.opacity = on && !compared ? at("strength").value / 100 : 0;
  }

  function compare(held) {
    compared = held;
    fade();
  }

  function recall() {
    at("visit").hidden = !past.length;
    at("past").replaceChildren(...past.map((entry) => {
      const [item, button, image, label, clock] = ["li", "button", "img", "div", "span"].map(make);
      const best = entry.answer.predictions[0];
      const classified = entry.answer.decision === "classified";
      clock.textContent = entry.at.toLocaleTimeString(root.lang, { hour: "2-digit", minute: "2-digit" });
      image.alt = "";
      if (entry.url) image.src = entry.url;
      button.type = "button";
      label.append(classified ? text(entry, "names", best, best.name) : words[topic(entry.answer)], clock);
      button.append(image, label);
      button.addEventListener("click", () => { reveal(entry); });
      item.append(button);
      return item;
    }));
  }

  function forget() {
    past.forEach((entry) => { URL.revokeObjectURL(entry.url); });
    past = [];
    recall();
    restart();
  }

  // Camera --------------------------------------------------------------------------------------

  const camera = photo.camera(at("finder"));

  async function look(open) {
    if (!navigator.mediaDevices || matchMedia("(pointer: coarse)").matches) {
      at("shot").click(); // a phone's own camera focuses better
      return;
    }
    at("camera-note").textContent = "";
    at("shutter").disabled = true;
    if (!at("camera-box").open) at("camera-box").showModal();
    try {
      at("other-camera").hidden = await open() < 2;
      at("shutter").disabled = false;
      at("shutter").focus();
    } catch (error) {
      const denied = error.name === "NotAllowedError";
      at("camera-note").textContent = denied ? words.camera_denied : words.camera_missing;
    }
    if (!at("camera-box").open) camera.close(); // it was closed while the browser asked
  }

  async function shoot() {
    const file = await camera.shoot();
    at("camera-box").close();
    await take([file]);
  }

  // Operators -----------------------------------------------------------------------------------

  async function gauge() {
    const [memory, ready] = await Promise.all([api.ask("memory/"), api.ask("ready/")]);
    const percent = memory?.memory?.percent;
    const mb = (size) => Math.round(size).toLocaleString(root.lang);
    const rows = percent !== undefined && ready?.state ? [
      [words.gauge_state, words.states[ready.state] ?? ready.state],
      [words.gauge_memory, fill(words.gauge_of, {
        used: mb(memory.pss_mb), limit: mb(memory.limit_mb), percent: percent.toLocaleString(root.lang),
      })],
      [words.gauge_headroom, `${mb(memory.headroom_mb)} MB`],
      [words.gauge_band, memory.band],
      [words.gauge_read, new Date().toLocaleTimeString(root.lang)],
    ] : [[words.gauge_state, words.gauge_silent]];
    at("gauge").replaceChildren(...rows.flatMap(([term, text]) => {
      const [left, right] = ["dt", "dd"].map(make);
      [left.textContent, right.textContent] = [term, text];
      return [left, right];
    }));
    at("gauge-bar").firstElementChild.setAttribute("width", `${Math.min(100, percent ?? 0)}%`);
  }

  async function poll() {
    while (at("operators").open) {
      if (!document.hidden) await gauge();
      await pause(POLL_MS);
    }
  }

  // Language ------------------------------------------------------------------------------------

  function speak(language) {
    root.lang = language;
    words = table[language];
    document.querySelectorAll("[data-word]").forEach((element) => {
      element.textContent = words[element.dataset.word];
    });
    document.querySelectorAll("nav a").forEach((link) => {
      if (link.lang === language) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    });
    const query = new URLSearchParams(location.search);
    query.set("lang", language);
    history.replaceState(null, "", `?${query}`);
    if (chosen) picture(chosen.url);
    draw();
    if (!at("operators").hidden) gauge();
  }

  // What people do ------------------------------------------------------------------------------

  const on = (id, event, act) => { at(id).addEventListener(event, act); };
  on("file", "change", () => { take(at("file").files); });
  on("shot", "change", () => { take(at("shot").files); });
  on("camera", "click", () => { look(camera.open); });
  on("shutter", "click", shoot);
  on("other-camera", "click", () => { look(camera.next); });
  on("close-camera", "click", () => { at("camera-box").close(); });
  on("camera-box", "close", () => { camera.close(); });
  on("original", "change", () => { draw(); say(facts()); });
  on("analyse", "click", send);
  on("retry", "click", send);
  on("smaller", "click", () => { at("original").checked = false; send(); });
  on("cancel", "click", () => { stop.abort(); present(); say(words.canceled); });
  on("strength", "input", fade);
  on("heat-on", "change", fade);
  ["pointerdown", "keydown"].forEach((event) => {
    on("compare", event, ({ key }) => { if (!key || key === " " || key === "Enter") compare(true); });
  });
  ["pointerup", "pointerleave", "pointercancel", "keyup", "blur"].forEach((event) => {
    on("compare", event, () => { compare(false); });
  });
  on("compare", "contextmenu", (event) => { event.preventDefault(); }); // what a long touch opens
  on("print", "click", () => { print(); });
  on("forget", "click", forget);
  if (new URLSearchParams(location.search).has("ops")) {
    at("operators").hidden = false;
    on("operators", "toggle", poll);
    at("operators").open = true;
  }
  on("example", "click", async () => {
    try {
      const answer = await fetch("page/example.jpg");
      if (answer.ok) await take([new File([await answer.blob()], "example.jpg", { type: "image/jpeg" })], true);
      else complain(api.problem("unknown", { status: answer.status }));
    } catch {
      complain(api.problem("network"));
    }
  });
  on("key-form", "submit", (event) => {
    event.preventDefault();
    api.useKey(at("key").value.trim());
    at("key").value = "";
    send();
  });
  document.querySelectorAll(".another").forEach((button) => {
    button.addEventListener("click", (event) => { event.preventDefault(); restart(); });
  });
  document.querySelectorAll("nav a").forEach((link) => {
    link.addEventListener("click", (event) => { event.preventDefault(); speak(link.lang); });
  });
  document.addEventListener("paste", (event) => { if (event.clipboardData.files.length) take(event.clipboardData.files); });
  document.addEventListener("dragover", (event) => { event.preventDefault(); document.body.dataset.drag = ""; });
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) delete document.body.dataset.drag; });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    delete document.body.dataset.drag;
    take(event.dataTransfer.files);
  });
})();
