import { readFile } from 'node:fs/promises';
import http from 'node:http';
import path from 'node:path';

/** Serves a folder's files over HTTP, which is all that git's dumb protocol wants: FOLDER ADDRESS PORT. */
const [folder, address, port] = process.argv.slice(2) as [string, string, string];
http
  .createServer((request, response) => {
    const { pathname } = new URL(request.url as string, 'http://here');
    readFile(path.join(folder, path.normalize(pathname))).then(
      (file) => response.end(file),
      () => response.writeHead(404).end(),
    );
  })
  .listen(Number(port), address);
