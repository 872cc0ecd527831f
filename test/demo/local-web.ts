/**
 * The demo's web as a person would run it while working on it: an ordinary program that knows nothing of lpk. Says what the
 * cluster looks like from here.
 */
import http from 'node:http';
import os from 'node:os';

const port = Number(process.argv[2]);

async function get(url: string): Promise<string> {
  try {
    const response = await fetch(url);
    return (await response.text()).trim();
  } catch (error) {
    return `failed: ${error instanceof Error ? (error.cause ?? error) : error}`;
  }
}

const server = http.createServer(async (_request, response) => {
  const [api, db] = await Promise.all([get('http://api/'), get('http://db-1.db:5432/')]);
  const answer = { servedBy: `process ${process.pid} on ${os.hostname()}`, api, db, password: process.env.DB_PASSWORD };
  response.setHeader('content-type', 'application/json').end(`${JSON.stringify(answer)}\n`);
});
server.listen(port, '127.0.0.1', () => console.log(`local web listens on 127.0.0.1:${port}`));
