import fs from 'node:fs';
import https from 'node:https';
import { ClusterError, kubeconfigFile } from './place.ts';

/** Asks the API server as the admin for a path's text. `undefined` when it isn't reachable or there is nothing. */
export async function get(path: string): Promise<string | undefined> {
  try {
    const { status, text } = await request('GET', path);
    return status === 200 ? text : undefined;
  } catch {
    return undefined;
  }
}

/** Creates an object in the collection at `path`. */
export async function create(path: string, object: object): Promise<void> {
  const { status, text } = await request('POST', path, JSON.stringify(object));
  if (status !== 201) throw new ClusterError(`POST ${path}: ${status} ${text.slice(0, 300)}`);
}

function request(method: string, path: string, body?: string): Promise<{ status: number; text: string }> {
  const config = JSON.parse(fs.readFileSync(kubeconfigFile, 'utf8'));
  const [{ cluster }, { user }] = [config.clusters[0], config.users[0]];
  const decode = (text: string) => Buffer.from(text, 'base64');
  const url = new URL(path, cluster.server);
  const options = {
    method,
    ca: decode(cluster['certificate-authority-data']),
    cert: decode(user['client-certificate-data']),
    key: decode(user['client-key-data']),
    headers: { 'content-type': 'application/json', accept: 'application/json, */*' },
    timeout: 5_000,
  };
  return new Promise((resolve, reject) => {
    const call = https.request(url, options, (response) => {
      let text = '';
      response.setEncoding('utf8').on('data', (part: string) => {
        text += part;
      });
      response.on('end', () => resolve({ status: response.statusCode ?? 0, text }));
      response.on('error', reject);
    });
    call.on('timeout', () => call.destroy(new Error(`${method} ${path}: no answer for 5 s`)));
    call.on('error', reject);
    call.end(body);
  });
}
