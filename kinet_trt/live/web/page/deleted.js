// Deleted fields, which can be restored until the session is closed.

import { $, make, rebuild, shown } from "./dom.js";
import { on, post, state } from "./server.js";
import { toast, trying } from "./words.js";

/** Fields restored by undo, which redo deletes again. @type {{id: number, number: number}[]} */
const redoable = [];
/** Undo in progress, which redo waits for. @type {Promise<any>} */
let restoring = Promise.resolve();

on("state", ({ session }) => {
  shown($("deleted"), session.deleted.length > 0);
  rebuild($("deleted-fields"), session.deleted, () => session.deleted.map(restoreButton));
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

/** Delete a field and offer to undo it; return whether it was deleted. */
export async function remove(id, number) {
  if (!(await trying(() => post(`/api/fields/${id}/delete`)))) return false;
  toast(`Field ${number} deleted`, ["Undo", () => restore(id)]);
  return true;
}

/** Restore the last deleted field. */
export async function undo() {
  const last = state?.session.deleted.at(-1);
  if (!last) toast("There is no deleted field to restore.");
  else await (restoring = restore(last.id).then((done) => done && redoable.push(last)));
}

/** Delete the field again that undo restored last. */
export async function redo() {
  await restoring;
  const field = redoable.at(-1);
  if (!field) toast("There is nothing to redo.");
  else if (await remove(field.id, field.number)) redoable.pop();
}
