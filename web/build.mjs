// Bundles web/src into web/dist: a script for songs, one for films, and one style sheet, minified, nothing fetched at run time.
// src/web/mod.rs embeds both; build.rs runs this when they are missing or older than their sources.
import { build } from "esbuild";
import { readFileSync, statSync } from "node:fs";

const here = new URL(".", import.meta.url).pathname;
const hls = JSON.parse(readFileSync(`${here}node_modules/hls.js/package.json`, "utf8"));

await build({
  absWorkingDir: here,
  entryPoints: ["src/watch.js", "src/film.js", "src/watch.css", "src/embed.js", "src/embed.css", "src/studio.js", "src/studio.css", "src/admin.js"],
  outdir: "dist",
  bundle: true,
  minify: true,
  format: "iife",
  target: ["es2020"],
  charset: "utf8",
  legalComments: "none",
  banner: { js: `/*! Segue watch page. Contains ${hls.name} ${hls.version}, ${hls.license}, (c) Dailymotion and contributors. */` },
  logLevel: "warning",
  logLimit: 5,
});

for (const name of ["watch.js", "film.js", "watch.css", "embed.js", "embed.css", "studio.js", "studio.css", "admin.js"]) {
  process.stdout.write(`web/dist/${name} ${statSync(`${here}dist/${name}`).size} bytes\n`);
}
