// Uploads a file with tus-js-client and prints where it is:   node upload.mjs ENDPOINT FILE KEY CHUNK_BYTES
import { readFileSync } from "node:fs";
import { basename } from "node:path";
import { Upload } from "tus-js-client";

const [endpoint, file, key, chunkSize] = process.argv.slice(2);
const upload = new Upload(readFileSync(file), {
  endpoint,
  chunkSize: Number(chunkSize),
  headers: { Authorization: `Bearer ${key}` },
  metadata: { filename: basename(file), filetype: "audio/wav" },
  retryDelays: Array(100).fill(200), // milliseconds: the server is away for as long as it takes to start
  onError: (error) => {
    console.error(`${error}`);
    process.exit(1);
  },
  onSuccess: () => console.log(upload.url),
});
upload.start();
