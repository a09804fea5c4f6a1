// Reads the description with the token of whoever looks, and shows it.
"use strict";

let token = "";

function headers() {
  return token ? { Authorization: `Bearer ${token}` } : {};
}

async function show() {
  const form = document.getElementById("sign-in");
  const why = document.getElementById("why");
  const answer = await fetch("openapi.json", { headers: headers(), cache: "no-cache" });
  if (!answer.ok) {
    const problem = await answer.json().catch(() => ({}));
    form.hidden = false;
    why.textContent = token || answer.status !== 401 ? problem.detail || `The daemon answered ${answer.status}.` : "";
    return;
  }
  form.hidden = true;
  SwaggerUIBundle({
    spec: await answer.json(),
    dom_id: "#docs",
    docExpansion: "list",
    defaultModelsExpandDepth: 0,
    validatorUrl: null,
    requestInterceptor: (request) => {
      Object.assign(request.headers, headers());
      return request;
    },
  });
}

document.getElementById("sign-in").addEventListener("submit", (event) => {
  event.preventDefault();
  token = document.getElementById("token").value.trim();
  show();
});
show();
