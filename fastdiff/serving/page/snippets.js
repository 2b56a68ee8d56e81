// A request as a command and as a program.

import { toJson } from "./api.js";

/** Return a shell command that sends `request`. */
export function asCurl(base, request, withKey) {
  const body = toJson(request).replaceAll("'", `'\\''`);
  const lines = [`curl ${base}/images/generations`, `-H 'Content-Type: application/json'`];
  if (withKey) lines.push(`-H "Authorization: Bearer $FASTDIFF_API_KEY"`);
  return [...lines, `-d '${body}'`].join(" \\\n  ");
}

/** Return a program for the official openai package that sends `request`. */
export function asPython(base, request, withKey) {
  const { model, prompt = "", n, ...extensions } = request;
  const key = withKey ? `os.environ["FASTDIFF_API_KEY"]` : `"none"`;
  return [
    ...(withKey ? ["import os", ""] : []),
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url="${base}", api_key=${key})`,
    "response = client.images.generate(",
    ...Object.entries({ model, prompt, n }).map(([name, value]) => `    ${name}=${toJson(value)},`),
    `    response_format="b64_json",`,
    `    extra_body=${toJson(extensions)},`,
    ")",
  ].join("\n");
}
