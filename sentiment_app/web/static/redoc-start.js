// A file of its own, so that the page needs no inline script.
Redoc.init(document.currentScript.dataset.document, { hideDownloadButton: false }, document.getElementById("redoc"));
