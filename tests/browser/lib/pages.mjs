// Serves the bare test pages from a port of their own, so that every media request is cross-origin and needs
// the server's CORS headers. In: nothing. Out: a base URL and `close`.

import { createServer } from "node:http";
import { readFile } from "node:fs/promises";

const here = new URL("..", import.meta.url).pathname;

const FILES = {
  "/frame.html": [`${here}pages/frame.html`, "text/html"],
  "/frame.page.js": [`${here}pages/frame.page.js`, "text/javascript"],
  "/hls.html": [`${here}pages/hls.html`, "text/html"],
  "/hls.page.js": [`${here}pages/hls.page.js`, "text/javascript"],
  "/shaka.html": [`${here}pages/shaka.html`, "text/html"],
  "/shaka.page.js": [`${here}pages/shaka.page.js`, "text/javascript"],
  "/tap.worklet.js": [`${here}pages/tap.worklet.js`, "text/javascript"],
  "/tap.js": [`${here}pages/tap.js`, "text/javascript"],
  "/lib/hls.js": [`${here}node_modules/hls.js/dist/hls.min.js`, "text/javascript"],
  "/lib/shaka.js": [`${here}node_modules/shaka-player/dist/shaka-player.hls-es2021.js`, "text/javascript"],
};

export async function servePages() {
  const server = createServer(async (request, answer) => {
    const file = FILES[new URL(request.url, "http://here").pathname];
    const body = file && (await readFile(file[0]).catch(() => null));
    if (!body) {
      answer.writeHead(404).end();
      return;
    }
    answer.writeHead(200, { "content-type": `${file[1]}; charset=utf-8`, "cache-control": "no-store" }).end(body);
  });
  await new Promise((ready, failed) => server.once("error", failed).listen(0, "127.0.0.1", ready));
  return {
    base: `http://127.0.0.1:${server.address().port}`,
    close: () => { server.closeAllConnections(); return new Promise((done) => server.close(done)); },
  };
}
