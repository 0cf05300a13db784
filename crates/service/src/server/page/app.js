// The page: shows what /api/events tells, and sends what a person clicks to /api/jobs.

const $ = (id) => document.getElementById(id);
let seen = null; // the latest answer
let stream = null;
let pictured = ""; // the job and frame whose pictures are shown, or on their way

async function call(method, path, body) {
  const answer = await fetch(path, {
    method,
    headers: body === undefined ? {} : { "Content-Type": "application/json" },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  if (answer.status === 401) {
    login();
    throw new Error("a token is needed");
  }
  const told = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(told.detail || answer.statusText);
  return told;
}

function notice(words) {
  $("notice").textContent = words;
  $("notice").hidden = !words;
}

// Whether it was done.
async function act(path, body, method = "POST") {
  try {
    await call(method, path, body);
    notice("");
    show(await call("GET", "/api/jobs"));
    return true;
  } catch (error) {
    notice(error.message);
    return false;
  }
}

const of = (job, verb) => `/api/jobs/${encodeURIComponent(job)}/${verb}`;

function button(words, label, run, disabled = false) {
  const made = document.createElement("button");
  made.type = "button";
  made.textContent = words;
  made.setAttribute("aria-label", label);
  made.disabled = disabled;
  made.addEventListener("click", run);
  return made;
}

function time(seconds) {
  if (seconds === null || seconds === undefined || !isFinite(seconds)) return "unknown";
  const s = Math.round(seconds);
  const [d, h, m] = [Math.floor(s / 86400), Math.floor(s / 3600) % 24, Math.floor(s / 60) % 60];
  if (d) return `${d} d ${h} h`;
  if (h) return `${h} h ${m} min`;
  return m ? `${m} min ${s % 60} s` : `${s} s`;
}

function line(job, buttons) {
  const item = document.createElement("li");
  const what = document.createElement("div");
  what.className = "what";
  const name = document.createElement("div");
  name.className = "name";
  name.textContent = job.job;
  what.append(name);
  const words = job.output || job.activity;
  if (words && words !== job.state) {
    const note = document.createElement("div");
    note.className = "note";
    note.textContent = words;
    what.append(note);
  }
  const tag = document.createElement("span");
  tag.className = `tag ${job.state}`;
  tag.textContent = job.state;
  const actions = document.createElement("div");
  actions.className = "actions";
  actions.append(...buttons);
  item.append(what, tag, actions);
  return item;
}

function fill(list, items, none) {
  if (!items.length) {
    const empty = document.createElement("li");
    empty.className = "empty";
    empty.textContent = none;
    items = [empty];
  }
  // The focus stays on the button that was pressed last.
  const held = document.activeElement?.getAttribute?.("aria-label");
  list.replaceChildren(...items);
  if (held) list.querySelector(`button[aria-label="${CSS.escape(held)}"]`)?.focus();
}

function steering(job) {
  return [
    job.state === "paused"
      ? button("Resume", `Resume ${job.job}`, () => act(of(job.job, "resume")))
      : button("Pause", `Pause ${job.job}`, () => act(of(job.job, "pause"))),
    button("Cancel", `Cancel ${job.job}`, () => sure(`Cancel ${job.job}?`) && act(of(job.job, "cancel"))),
  ];
}

/** How far a job is, in a line. */
function brief({ activity, progress: p }) {
  if (!p?.frames || p.phase !== "upscaling") return activity;
  return `${(100 * p.frame / p.frames).toFixed(1)}\u00a0%, ${p.fps.toFixed(1)} frames/s, ${time(p.eta)} left`;
}

function current(job) {
  $("figures").hidden = !job?.progress;
  $("job").textContent = job ? job.job : "Nothing is being upscaled";
  $("activity").textContent = job ? job.activity : seen.daemon.held || "Drop a video into input/.";
  $("job-actions").className = "actions";
  $("job-actions").replaceChildren(...(job ? steering(job) : []));
  const p = job?.progress;
  // While frames are made the figures below say it all.
  $("activity").hidden = p?.phase === "upscaling";
  if (p) {
    const share = p.frames ? p.frame / p.frames : 0;
    $("bar").value = share;
    $("frame").textContent = p.frames ? `${p.frame} of ${p.frames}, ${(100 * share).toFixed(1)}\u00a0%` : `${p.frame}`;
    $("fps").textContent = `${p.fps.toFixed(1)} frames/s`;
    $("eta").textContent = time(p.eta);
    $("elapsed").textContent = time(p.elapsed);
    $("batch").textContent = p.batches ? `${p.batch} of ${p.batches}` : `${p.batch}`;
    $("limit").textContent = p.limit || "not known yet";
    $("device").textContent = p.device || "not chosen yet";
    $("encoder").textContent = p.encoder || "not chosen yet";
    const chosen = Object.entries(job.settings || {});
    $("own").hidden = !chosen.length;
    $("chosen").textContent = chosen.map(([name, value]) => `${name} ${value}`).join(", ");
    document.title = `${Math.floor(100 * share)} % ${job.job}`;
  } else {
    document.title = "upscaled";
  }
  compare(job);
}

// Two pictures of one frame: the source over the result, cut where the slider stands.
function compare(job) {
  const frame = job?.progress?.preview ?? null;
  const key = frame === null ? "" : `${frame} ${job.job}`;
  if (key === pictured) return;
  const other = key === "" || !pictured.endsWith(` ${job.job}`);
  pictured = key;
  if (other) $("compare").hidden = true;
  if (key === "") return;
  const load = (side) => {
    const image = new Image();
    image.src = `${of(job.job, "preview")}/${side}?frame=${frame}`;
    return image.decode().then(() => image);
  };
  Promise.all([load("before"), load("after")]).then(([before, after]) => {
    if (key !== pictured) return;
    $("before").src = before.src;
    $("after").src = after.src;
    // Not larger than it is, nor too small to be handled.
    $("compare").style.maxWidth = `${Math.max(after.naturalWidth, 320)}px`;
    $("preview-of").textContent = `frame ${frame + 1}`;
    $("compare").hidden = false;
  }).catch(() => {
    // Replaced or gone meanwhile: the next event says what there is.
    if (key === pictured) pictured = "";
  });
}

const cut = () => $("stage").style.setProperty("--cut", `${$("slider").value}%`);
$("slider").addEventListener("input", cut);
function drag(event) {
  if (event.pointerType === "mouse" && !event.buttons) return;
  const box = $("stage").getBoundingClientRect();
  $("slider").value = Math.round((100 * (event.clientX - box.left)) / box.width);
  cut();
}
$("stage").addEventListener("pointerdown", drag);
$("stage").addEventListener("pointermove", drag);
cut();

const sure = (question) => window.confirm(question);

function show(told) {
  seen = told;
  const { daemon, jobs } = told;
  $("main").hidden = false;
  $("login").hidden = true;
  $("state").textContent = daemon.paused ? "all work is paused" : daemon.held || `version ${daemon.version}`;
  const all = $("pause-all");
  all.hidden = false;
  all.textContent = daemon.paused ? "Resume all" : "Pause all";
  all.onclick = () => act(daemon.paused ? "/api/resume" : "/api/pause");
  const running = jobs.filter((job) => job.state === "running");
  current(running[0]);
  // Requests of the video service may run side by side.
  $("beside").replaceChildren(...running.slice(1).map((job) => line({ ...job, activity: brief(job) }, steering(job))));
  const queue = jobs.filter((job) => job.place !== null && !running.includes(job));
  $("downloads").replaceChildren(...told.downloads.map((download) => line({
    job: download.name,
    state: download.state,
    activity: download.reason || `${(download.bytes / 2 ** 20).toFixed(1)} MiB so far, from ${download.host}`,
  }, [
    button(download.state === "failed" ? "Dismiss" : "Cancel", `Cancel the download of ${download.name}`,
      () => act(`/api/downloads/${download.id}`, undefined, "DELETE")),
  ])));
  const places = daemon.queued;
  const waiting = places - running.length;
  $("queued").textContent = waiting || "";
  const more = waiting - queue.length;
  $("more").textContent = more > 0 ? `${more} more behind these` : "";
  fill($("queue"), queue.map((job) => line(job, [
    button("↑", `Earlier: ${job.job}`, () => act(of(job.job, "move"), { place: job.place - 1 }), job.place <= 1),
    button("↓", `Later: ${job.job}`, () => act(of(job.job, "move"), { place: job.place + 1 }), job.place >= places),
    ...steering(job),
  ])), "No job is waiting.");
  const ended = jobs.filter((job) => job.place === null && !running.includes(job));
  $("ended").textContent = ended.length || "";
  fill($("history"), ended.map((job) => line(job,
    job.state === "failed" ? [button("Try again", `Try again: ${job.job}`, () => act(of(job.job, "retry")))] : [],
  )), "No job has ended yet.");
}

function listen() {
  stream?.close();
  stream = new EventSource("/api/events");
  stream.addEventListener("jobs", (event) => show(JSON.parse(event.data)));
  stream.onerror = () => {
    $("state").textContent = "the daemon does not answer; trying again";
    // A browser gives up on a refusal: ask why.
    if (stream.readyState === EventSource.CLOSED) setTimeout(begin, 3000);
  };
}

function login() {
  stream?.close();
  $("main").hidden = true;
  $("pause-all").hidden = true;
  $("login").hidden = false;
  $("state").textContent = "locked";
  $("token").focus();
}

$("add").addEventListener("submit", async (event) => {
  event.preventDefault();
  const what = $("what").value.trim();
  const body = /^https?:\/\//i.test(what) ? { url: what } : { path: what.replace(/^input\//, "") };
  if ($("scale").value) body.settings = { scale: Number($("scale").value) };
  if (await act("/api/jobs", body)) $("add").reset();
});

$("login").addEventListener("submit", async (event) => {
  event.preventDefault();
  const answer = await fetch("/api/login", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ token: $("token").value }),
  }).catch(() => null);
  $("token").value = "";
  $("login-error").textContent = answer?.ok ? "" : "that is not the token";
  if (answer?.ok) begin();
});

async function begin() {
  try {
    show(await call("GET", "/api/jobs"));
    listen();
  } catch (error) {
    if ($("login").hidden) {
      $("state").textContent = "the daemon does not answer; trying again";
      setTimeout(begin, 3000);
    }
  }
}
begin();
