// Session: title, notes and files, other sessions, and blind recounts.

import { $, attribute, make, percent, rebuild, shown, text, when } from "./dom.js";
import { get, on, post, state } from "./server.js";
import { ask, showError, toast, trying } from "./words.js";

const DOWNLOADS = ["report", "print", "summary-csv", "summary-xlsx", "csv", "geojson", "export"];

on("state", ({ session }) => {
  const { title, reader, recount, recounts, fields, notes } = session;
  text($("title"), title || "Untitled session");
  document.title = `${title || "Ki67 count"} · kinet-trt`;
  for (const [id, value] of [
    ["title-input", title],
    ["reader-input", reader],
  ])
    if (!$("title-form").contains(document.activeElement)) $(id).value = value;
  text(
    $("session-words"),
    `Started ${when(session.created)}. ${fields.length} ${fields.length === 1 ? "field" : "fields"}.`,
  );
  attribute($("export"), "href", `/api/sessions/${session.id}/file`);
  for (const id of DOWNLOADS) shown($(id), recount === null);
  shown($("exports-hidden"), recount !== null);
  shown($("title-form"), recount === null);
  rebuild($("notes"), notes, () =>
    notes.map((note) =>
      make("li", {}, note.text, make("small", {}, [note.reader, when(note.time)].filter(Boolean).join(", "))),
    ),
  );
  rebuild($("recounts"), [recounts, fields.length], () => recounts.map(recountRow));
  text(
    $("recount-words"),
    recount
      ? `${recount.reader || "The second reader"} is counting: ${recount.done} of ${recount.of} fields done.`
      : recounts.length
        ? ""
        : "A second reader counts the same fields without seeing this count. The report then shows how well the two agree.",
  );
  text($("recount"), recount ? "End recount" : "Blind recount…");
  $("recount").disabled = !fields.length;
  for (const id of ["new-session", "list-sessions", "delete-session"]) $(id).disabled = recount !== null;
  if (session.resumed && sessionStorage.getItem("resumed") !== String(session.id)) {
    sessionStorage.setItem("resumed", String(session.id)); // once, not after every reload
    toast(`Session resumed: ${fields.length} ${fields.length === 1 ? "field" : "fields"}.`);
  }
});

/** Open the report in another tab, and the browser's print dialog on it. */
$("print").onclick = () => {
  const report = window.open($("report").href);
  if (report) report.addEventListener("load", () => report.print());
  else showError(new Error("The browser blocked the new tab: open the report and print it from there."));
};

$("title-form").onsubmit = async (event) => {
  event.preventDefault();
  const [title, reader] = ["title-input", "reader-input"].map((id) => $(id).value.trim());
  if (await trying(() => post("/api/sessions/rename", { title, reader }))) toast("Title and reader saved");
};

$("note-form").onsubmit = async (event) => {
  event.preventDefault();
  const words = $("note-input").value.trim();
  if (words && (await trying(() => post("/api/note", { text: words })))) {
    $("note-input").value = "";
    toast("Note added");
  }
};

/** Ask for a note on the session. */
export async function addNote() {
  const answer = await ask(
    "Note on the session",
    "",
    [{ name: "text", label: "Note", long: true, required: true }],
    "Add",
  );
  if (answer?.text && (await trying(() => post("/api/note", { text: answer.text })))) toast("Note added");
}

// --- a second reader ------------------------------------------------------------------------------------------------

/** @param {import("./types.js").Recount} recount */
function recountRow({ id, reader, done, agreement }) {
  const of = state.session.fields.length;
  const words = [`${done} of ${of} fields done.`];
  if (agreement) {
    if (agreement.same_class != null)
      words.push(
        `Same class for ${percent(agreement.same_class)} of the ${agreement.both} nuclei that both readers marked.`,
      );
    if (agreement.kappa != null) {
      const limits = agreement.kappa_interval?.map((k) => k.toFixed(2)).join(" to ");
      words.push(`Kappa ${agreement.kappa.toFixed(2)}${limits ? ` (95% ${limits})` : ""}.`);
    }
    if (agreement.difference != null)
      words.push(
        `Difference in the index: ${agreement.difference > 0 ? "+" : "−"}${Math.abs(100 * agreement.difference).toFixed(1)} percentage points.`,
      );
    words.push(
      `Marked by the first reader only: ${agreement.only_first}; by the second only: ${agreement.only_second}.`,
    );
  }
  const again = make("button", { type: "button" }, "Continue recount");
  again.onclick = () => trying(() => post("/api/recount", { recount: id }));
  return make(
    "div",
    { class: "recount" },
    make("b", {}, reader || "Second reader"),
    make("p", {}, words.join(" ")),
    make("div", { class: "row" }, again),
  );
}

/** Start a blind recount, or end the one in progress. */
export async function toggleRecount() {
  if (state.session.recount) {
    const { done, of } = state.session.recount;
    const answer = await ask(
      "End the recount?",
      `${done} of ${of} fields are done. The first reader's count is shown again. The recount can be continued later.`,
      [],
      "End recount",
    );
    if (answer) await trying(() => post("/api/recount", { recount: null }));
    return;
  }
  const answer = await ask(
    "Blind recount",
    "The second reader sees the same fields but nothing of the first count.",
    [
      { name: "reader", label: "Name of the second reader" },
      {
        name: "start",
        label: "Start from",
        value: "nothing",
        choices: [
          ["nothing", "an empty field: the reader marks every nucleus"],
          ["model", "the model's nuclei: the reader corrects them"],
        ],
      },
    ],
    "Start",
  );
  if (answer) await trying(() => post("/api/recount", answer));
}
$("recount").onclick = toggleRecount;

// --- sessions -------------------------------------------------------------------------------------------------------

$("new-session").onclick = async () => {
  const answer = await ask(
    "New session",
    "The open session is kept and can be opened again.",
    [
      { name: "title", label: "Title" },
      { name: "reader", label: "Reader", value: state.session.reader },
    ],
    "Start",
  );
  if (answer && (await trying(() => post("/api/sessions", answer)))) toast("New session started");
};

$("list-sessions").onclick = () => list();

async function list() {
  const answer = await trying(() => get("/api/sessions/list"));
  if (!answer) return;
  $("sessions-list").replaceChildren(...answer.sessions.map(sessionRow));
  if (!$("sessions").open) $("sessions").showModal();
}

function sessionRow({ id, title, created, fields, open }) {
  const name = title || "Untitled session";
  const row = make(
    "li",
    {},
    make(
      "div",
      {},
      make("b", {}, name),
      make("br"),
      make("span", { class: "soft" }, `${when(created)} · ${fields} ${fields === 1 ? "field" : "fields"}`),
    ),
  );
  if (open) {
    row.append(make("span", { class: "soft" }, "open now"));
    return row;
  }
  const go = make("button", { type: "button" }, "Open");
  go.onclick = async () => {
    if (!(await trying(() => post("/api/sessions/open", { session: id })))) return;
    $("sessions").close();
    toast(`Opened: ${name}`);
  };
  const file = make("a", { class: "button", href: `/api/sessions/${id}/file`, download: true }, "Session file");
  const away = make("button", { type: "button", class: "danger" }, "Delete…");
  away.onclick = async () => {
    $("sessions").close();
    await remove(id, name, fields);
    list();
  };
  row.append(go, file, away);
  return row;
}

$("delete-session").onclick = () =>
  remove(state.session.id, state.session.title || "this session", state.session.fields.length);

async function remove(id, name, fields) {
  const answer = await ask(
    `Delete ${name}?`,
    `${fields} ${fields === 1 ? "field" : "fields"} with pictures, counts, corrections and notes will be deleted permanently.`,
    [],
    "Delete",
    true,
  );
  if (answer && (await trying(() => post("/api/sessions/delete", { session: id })))) toast("Session deleted");
}
