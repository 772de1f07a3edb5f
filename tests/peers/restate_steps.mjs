// Durable steps of Restate: so many workflows at a time, each a chain of steps that do nothing.
//
// Usage: restate_steps.mjs SERVER DIRECTORY WORKFLOWS STEPS ROUNDS. SERVER is the server's binary, DIRECTORY where it may
// keep its state. Prints steps and seconds.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { createWriteStream } from "node:fs";
import net from "node:net";
import path from "node:path";
import { setTimeout as pause } from "node:timers/promises";

import * as restate from "@restatedev/restate-sdk";

// What the SDK expects of Node 22 and the long-term release before it lacks.
Promise.withResolvers ??= function withResolvers() {
  let resolve, reject;
  const promise = new this((one, other) => ([resolve, reject] = [one, other]));
  return { promise, resolve, reject };
};

const RESULT = "a result of middling length, as tools give them";

const chain = restate.service({
  name: "chain",
  handlers: {
    async run(context, steps) {
      for (let number = 0; number < steps; number += 1) {
        await context.run("step", () => `${number}: ${RESULT}`);
      }
      return steps;
    },
  },
});

async function freePort() {
  const server = net.createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  server.close();
  await once(server, "close");
  return port;
}

async function answers(url, init) {
  for (let left = 300; left > 0; left -= 1) {
    try {
      const response = await fetch(url, init);
      if (response.ok) return response;
    } catch {
      // Not there yet.
    }
    await pause(100);
  }
  throw new Error(`${url} does not answer`);
}

async function wave(ingress, workflows, steps) {
  const init = { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(steps) };
  const one = async () => {
    const response = await fetch(`${ingress}/chain/run`, init);
    if (!response.ok || (await response.json()) !== steps) throw new Error(`a workflow failed: ${response.status}`);
  };
  await Promise.all(Array.from({ length: workflows }, one));
}

async function main(binary, directory, workflows, steps, rounds) {
  const [ingress, admin, node, service] = await Promise.all([freePort(), freePort(), freePort(), freePort()]);
  const log = createWriteStream(path.join(directory, "restate.log"));
  const server = spawn(binary, ["--base-dir", directory, "--node-name", "steps"], {
    env: {
      ...process.env,
      RESTATE_BIND_IP: "127.0.0.1",
      RESTATE_BIND_PORT: String(node),
      RESTATE_ADVERTISED_ADDRESS: `http://127.0.0.1:${node}`,
      RESTATE_INGRESS__BIND_ADDRESS: `127.0.0.1:${ingress}`,
      RESTATE_ADMIN__BIND_ADDRESS: `127.0.0.1:${admin}`,
      RESTATE_DISABLE_TELEMETRY: "true",
      RESTATE_LOG_FILTER: "error",
    },
    stdio: ["ignore", "pipe", "pipe"],
  });
  server.stdout.pipe(log);
  server.stderr.pipe(log);
  try {
    const port = await restate.serve({ services: [chain], port: service });
    await answers(`http://127.0.0.1:${admin}/health`);
    await answers(`http://127.0.0.1:${admin}/deployments`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ uri: `http://127.0.0.1:${port}` }),
    });
    const url = `http://127.0.0.1:${ingress}`;
    await wave(url, 2, 8);
    const begun = performance.now();
    for (let round = 0; round < rounds; round += 1) {
      await wave(url, workflows, steps);
    }
    console.log(workflows * steps * rounds, (performance.now() - begun) / 1000);
  } finally {
    server.kill("SIGTERM");
    await once(server, "exit");
  }
}

const [binary, directory, ...counts] = process.argv.slice(2);
await main(binary, directory, ...counts.map(Number));
process.exit(0);
