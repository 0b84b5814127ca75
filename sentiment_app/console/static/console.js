// What the pages do beyond htmx: show problems in place, examples, copying, and files with a preview and progress.
"use strict";

const PREVIEW_BYTES = 1024 * 1024;
const WHOLE = /\.(xlsx|parquet|json|gz|zst)$/i; // of these files, a preview needs every byte

document.documentElement.classList.remove("no-script");

// Whoever has been signed out sees the form to sign in.
function showProblem(html, status) {
  if (status === 401) return window.location.reload();
  const page = new DOMParser().parseFromString(html, "text/html");
  const problem = page.querySelector("#problem");
  const place = document.querySelector("#problem");
  place.replaceChildren(...(problem ? problem.childNodes : [document.createTextNode("The service did not answer. Try again.")]));
}

function clearProblem() {
  document.querySelector("#problem").replaceChildren();
}

document.addEventListener("htmx:beforeRequest", (event) => {
  if (event.detail.elt.id !== "state") clearProblem();
});
document.addEventListener("htmx:beforeSwap", (event) => {
  const { xhr, elt } = event.detail;
  if (elt.id === "state" && xhr.status === 404) window.location.reload(); // the task was deleted
  else if (xhr.status >= 400) showProblem(xhr.responseText, xhr.status);
});
document.addEventListener("htmx:sendError", () => showProblem(""));
// A text may be here before htmx is: it was typed early, or the browser restored it.
document.addEventListener("DOMContentLoaded", () => {
  const text = document.querySelector("#text");
  if (text?.value.trim() && !document.querySelector("#result").children.length) window.htmx.trigger("#score", "submit");
});
// An empty text needs no request: the result is cleared.
document.addEventListener("htmx:confirm", (event) => {
  if (event.detail.elt.id === "score" && !document.querySelector("#text").value.trim()) {
    event.preventDefault();
    document.querySelector("#result").replaceChildren();
  }
});

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.dataset.example) {
    const text = document.querySelector("#text");
    text.value = button.dataset.example;
    text.dispatchEvent(new Event("input", { bubbles: true }));
  }
  if (button.dataset.copy) {
    await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
    const label = button.textContent;
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = label; }, 1500);
  }
  if (button.dataset.question && !window.confirm(button.dataset.question)) event.preventDefault();
});

// A form that is refused keeps its input, and the reason is shown on the same page.
document.addEventListener("submit", async (event) => {
  const form = event.target;
  if (!("inline" in form.dataset) || event.defaultPrevented) return;
  event.preventDefault();
  clearProblem();
  const button = event.submitter;
  if (button) button.disabled = true;
  try {
    const response = await fetch(form.action, {
      method: "POST",
      body: new URLSearchParams(new FormData(form)),
      headers: { Accept: "text/html" },
    });
    const html = await response.text();
    if (!response.ok) {
      showProblem(html, response.status);
    } else if (response.redirected) {
      window.location.assign(response.url);
    } else {
      const page = new DOMParser().parseFromString(html, "text/html");
      document.querySelector("main").replaceWith(page.querySelector("main"));
      document.querySelector("main").focus();
    }
  } catch {
    showProblem("");
  } finally {
    if (button) button.disabled = false;
  }
});

class Upload {
  constructor(form) {
    this.form = form;
    this.input = form.querySelector("#file");
    this.progress = form.querySelector("#sent");
    this.cancel = form.querySelector("#cancel");
    this.request = null;
    this.isSending = false;
    this.input.addEventListener("change", () => this.preview());
    form.addEventListener("change", (event) => { if (event.target !== this.input) this.preview(); });
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      event.submitter?.hasAttribute("formaction") ? this.preview() : this.send();
    });
    this.cancel.addEventListener("click", () => this.request?.abort());
    const drop = form.querySelector("#drop");
    for (const kind of ["dragover", "dragleave", "drop"]) {
      drop.addEventListener(kind, (event) => {
        event.preventDefault();
        drop.classList.toggle("over", kind === "dragover");
        if (kind === "drop" && event.dataTransfer.files.length) {
          this.input.files = event.dataTransfer.files;
          this.preview();
        }
      });
    }
  }

  // The fields come before the file. If the file is large, a preview sends its beginning.
  body(file) {
    const data = new FormData();
    for (const [name, value] of new FormData(this.form)) if (name !== "file") data.append(name, value);
    data.append("file", file, this.input.files[0].name);
    return data;
  }

  async preview() {
    const file = this.input.files[0];
    if (!file || this.isSending) return;
    clearProblem();
    const head = WHOLE.test(file.name) ? file : file.slice(0, PREVIEW_BYTES);
    const page = await this.post(this.form.dataset.preview, this.body(head), false);
    if (!page) return;
    const columns = page.getElementById("columns");
    if (columns) document.getElementById("columns").replaceWith(columns);
    if (page.getElementById("preview")) {
      for (const id of ["options", "preview"]) document.getElementById(id).replaceWith(page.getElementById(id));
    } else if (columns) { // the file has no column that is the text for sure: offer its columns
      document.getElementById("options").open = true;
      this.form.elements.column.focus();
    }
  }

  async send() {
    if (this.isSending) return;
    clearProblem();
    this.isSending = true;
    this.progress.hidden = this.cancel.hidden = false;
    await this.post(this.form.action, this.body(this.input.files[0]), true);
    this.progress.hidden = this.cancel.hidden = true;
    this.isSending = false;
  }

  // fetch cannot report how much was sent, so this is an XMLHttpRequest. Resolves to the page of the answer, or to null
  // if there is none.
  post(url, body, showsProgress) {
    this.request?.abort();
    return new Promise((resolve) => {
      const request = new XMLHttpRequest();
      this.request = request;
      request.open("POST", url);
      request.setRequestHeader("Accept", "text/html");
      if (showsProgress) {
        request.upload.addEventListener("progress", (event) => {
          if (event.lengthComputable) this.progress.value = (100 * event.loaded) / event.total;
        });
      }
      request.addEventListener("load", () => {
        if (request.status >= 400) showProblem(request.responseText, request.status);
        if (showsProgress && request.status < 400) window.location.assign(request.responseURL);
        else resolve(new DOMParser().parseFromString(request.responseText, "text/html"));
      });
      request.addEventListener("error", () => { showProblem(""); resolve(null); });
      request.addEventListener("abort", () => resolve(null));
      request.send(body);
    });
  }
}

const uploadForm = document.querySelector("#upload");
if (uploadForm) new Upload(uploadForm);
