// Deleted fields: they can be restored until the session is closed.

import { $, make, rebuilt, shown } from "./dom.js";
import { on, post, state } from "./server.js";
import { toast, trying } from "./words.js";

const again = []; // fields that were restored by a key, and can be deleted again
let restoring = Promise.resolve(); // the last undo: a redo that follows at once waits for its answer

on("state", ({ session }) => {
  shown($("deleted"), session.deleted.length > 0);
  rebuilt($("deleted-fields"), session.deleted, () => session.deleted.map(restoreButton));
});

function restoreButton({ id, number }) {
  const button = make("button", { type: "button" }, `Restore field ${number}`);
  button.onclick = () => restore(id);
  return button;
}

async function restore(id) {
  const answer = await trying(() => post(`/api/fields/${id}/restore`));
  if (answer) toast(`Field ${answer.number} restored`);
  return Boolean(answer);
}

/** Delete a field, and offer the way back; say whether it was done. */
export async function remove(id, number) {
  if (!(await trying(() => post(`/api/fields/${id}/delete`)))) return false;
  toast(`Field ${number} deleted`, ["Undo", () => restore(id)]);
  return true;
}

/** Restore the field that was deleted last. */
export async function undo() {
  const last = state?.session.deleted.at(-1);
  if (!last) toast("There is no deleted field to restore.");
  else await (restoring = restore(last.id).then((done) => done && again.push(last)));
}

/** Delete the field again that was restored last. */
export async function redo() {
  await restoring;
  const field = again.at(-1);
  if (!field) toast("There is nothing to redo.");
  else if (await remove(field.id, field.number)) again.pop();
}
