import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import https from 'node:https';
import { setTimeout as pause } from 'node:timers/promises';

/**
 * The local process of tokens.test.ts: an in-cluster client that reads its token before each call, without knowing of lpk. Prints
 * a line of JSON for each: whose token it was, when it was read (ms since 1970), what the API server answered, and which other
 * file of the volume it saw, `torn` when that was not whole.
 */

const FOLDER = '/var/run/secrets/kubernetes.io/serviceaccount';
const PAUSE_MS = 50;
const READS = 5;

export type Use = { life: string; atMs: number; status: number | string; seen: string[] };

const { KUBERNETES_SERVICE_HOST: host, KUBERNETES_SERVICE_PORT: port } = process.env;
const agent = new https.Agent({ keepAlive: true, ca: readFileSync(`${FOLDER}/ca.crt`) });

for (;;) {
  const seen = Array.from({ length: READS }, () => readWhole(`${FOLDER}/whole`));
  const token = readFileSync(`${FOLDER}/token`, 'utf8');
  const use: Use = { life: lifeOf(token), atMs: Date.now(), status: await call(token), seen: [...new Set(seen)] };
  console.log(JSON.stringify(use));
  await pause(PAUSE_MS);
}

/** The name of the Secret that this token lives and dies with. */
function lifeOf(token: string): string {
  const claims = JSON.parse(Buffer.from(token.split('.')[1] as string, 'base64url').toString());
  return claims['kubernetes.io'].secret.name;
}

/** `NUMBER FILLER HASH`: the number. */
function readWhole(file: string): string {
  const text = readFileSync(file, 'utf8');
  const at = text.lastIndexOf(' ');
  const hash = createHash('sha256').update(text.slice(0, at)).digest('hex');
  return hash === text.slice(at + 1) ? (text.split(' ', 1)[0] as string) : 'torn';
}

function call(token: string): Promise<number | string> {
  const namespace = readFileSync(`${FOLDER}/namespace`, 'utf8');
  return new Promise((resolve) => {
    const path = `/api/v1/namespaces/${namespace}/pods?limit=1`;
    const headers = { authorization: `Bearer ${token}` };
    https
      .get({ host, port, path, headers, agent }, (response) => {
        response.resume().on('end', () => resolve(response.statusCode as number));
      })
      .on('error', (error) => resolve(error.message));
  });
}
