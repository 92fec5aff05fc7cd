"use strict";

const lanes = ["client", "gateway", "server", "api"];
const names = { client: "Client", gateway: "phantom", server: "Authorization server", api: "API" };
const $ = (id) => document.getElementById(id);

// element makes an element with a class and children. Text stays text: what
// the servers say is never read as HTML.
function element(name, className, ...children) {
  const e = document.createElement(name);
  e.className = className;
  e.append(...children);
  return e;
}

let shown = 0; // the act in the picture
let opened = false; // a JWT of it is open

function showAct(act) {
  if (act.id > shown) {
    shown = act.id;
    opened = false;
    $("messages").replaceChildren();
    $("act").textContent = act.title;
    $("about").textContent = act.about;
    $("outcome").textContent = "";
  }
  if (!act.outcome) return;
  if (act.id === shown) $("outcome").textContent = act.outcome[0].toUpperCase() + act.outcome.slice(1);
  const line = element("p", "", element("strong", "", act.title), ": " + act.outcome);
  line.id = "log-" + act.id;
  if ($(line.id)) return;
  $("log").prepend(line);
}

function showMessage(m) {
  const known = $("message-" + m.id);
  if (known) {
    known.querySelector(".count").textContent = m.count + " ×";
    return;
  }
  const from = lanes.indexOf(m.from);
  const to = lanes.indexOf(m.to);
  const who = from === to ? names[m.from] : names[m.from] + " to " + names[m.to];
  const summary = element("summary", "",
    element("span", "unseen", who + ": "),
    element("span", "count", m.count > 1 ? m.count + " ×" : ""),
    element("span", "title", m.title),
    element("span", "gist", m.gist));
  const whole = element("div", "whole");
  if (m.jwt) {
    whole.append(element("div", "decoded",
      element("figure", "", element("figcaption", "", "JWT, header"), element("pre", "", m.jwt.header)),
      element("figure", "", element("figcaption", "", "JWT, claims"), element("pre", "", m.jwt.claims))));
  }
  whole.append(element("pre", "", m.text || m.title));
  const details = element("details", "", summary, whole);
  details.open = Boolean(m.jwt) && !opened;
  opened ||= details.open;

  const item = element("li", "message", details);
  item.id = "message-" + m.id;
  item.classList.toggle("jwt", Boolean(m.jwt));
  item.classList.toggle("answer", m.answer);
  item.classList.toggle("refused", m.refused);
  item.classList.toggle("left", to < from);
  item.classList.toggle("note", to === from);
  item.style.setProperty("--l", Math.min(from, to));
  item.style.setProperty("--r", Math.max(from, to));
  item.style.setProperty("--i", Math.min(m.id, 14));
  if (from !== to) item.append(element("div", "arrow"));
  $("messages").append(item);
}

function showState(state) {
  $("server").value = state.server;
  $("token").textContent = state.token || "none yet";
  $("power").textContent = state.down ? "Start the server" : "Stop the server";
  $("power").dataset.do = state.down ? "start" : "stop";
  for (const lane of ["gateway", "server", "api"]) {
    $("at-" + lane + "-url").textContent = state.addresses[lane].replace("http://", "");
  }
  if (state.down) $("at-server-url").textContent = "stopped";
  $("counters").replaceChildren(...state.counters.map((c) =>
    element("div", "", element("dt", "", c.name), element("dd", "", String(c.value)))));
}

async function post(path) {
  try {
    const answer = await fetch(path, { method: "POST" });
    if (!answer.ok) throw new Error(await answer.text());
  } catch (problem) {
    $("status").textContent = "That did not work: " + problem.message;
  }
}

for (const button of document.querySelectorAll("[data-do]")) {
  button.addEventListener("click", () => {
    post("do/" + button.dataset.do);
    // On a phone the picture is below the buttons.
    if ($("messages").getBoundingClientRect().top > innerHeight) $("picture").scrollIntoView();
  });
}
$("server").addEventListener("change", () => post("server/" + $("server").value));

const events = new EventSource("events");
events.addEventListener("open", () => { $("status").textContent = ""; });
events.addEventListener("error", () => {
  $("status").textContent = "The quickstart does not answer. Is it still running in the terminal?";
});
events.addEventListener("message", (event) => {
  const update = JSON.parse(event.data);
  for (const act of update.acts || []) showAct(act);
  for (const message of update.messages || []) showMessage(message);
  showState(update.state);
});
